import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from synthmix.api.artifacts.v1 import artifacts_pb2 as _artifacts_pb2
from synthmix.api.evaluations.v1 import evaluations_pb2 as _evaluations_pb2
from synthmix.api.operations.v1 import operations_pb2 as _operations_pb2_1
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StudySpec(_message.Message):
    __slots__ = ("name", "dataset", "split", "adapters", "synthesis", "selection", "mixtures", "classifier", "seeds", "claim")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    SYNTHESIS_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    MIXTURES_FIELD_NUMBER: _ClassVar[int]
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    name: str
    dataset: str
    split: SplitSpec
    adapters: AdaptersSpec
    synthesis: SynthesisSpec
    selection: SelectionSpec
    mixtures: _evaluations_pb2.Mixtures
    classifier: _evaluations_pb2.Classifier
    seeds: int
    claim: _evaluations_pb2.Claim
    def __init__(self, name: _Optional[str] = ..., dataset: _Optional[str] = ..., split: _Optional[_Union[SplitSpec, _Mapping]] = ..., adapters: _Optional[_Union[AdaptersSpec, _Mapping]] = ..., synthesis: _Optional[_Union[SynthesisSpec, _Mapping]] = ..., selection: _Optional[_Union[SelectionSpec, _Mapping]] = ..., mixtures: _Optional[_Union[_evaluations_pb2.Mixtures, _Mapping]] = ..., classifier: _Optional[_Union[_evaluations_pb2.Classifier, _Mapping]] = ..., seeds: _Optional[int] = ..., claim: _Optional[_Union[_evaluations_pb2.Claim, _Mapping]] = ...) -> None: ...

class SplitSpec(_message.Message):
    __slots__ = ("test", "validation", "seed")
    TEST_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    test: float
    validation: float
    seed: int
    def __init__(self, test: _Optional[float] = ..., validation: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class AdaptersSpec(_message.Message):
    __slots__ = ("base_model", "method", "rank", "alpha", "targets", "images_seen", "learning_rate", "batch_size", "caption_dropout", "image_size", "seed")
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_SEEN_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    CAPTION_DROPOUT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    base_model: str
    method: _containers.RepeatedScalarFieldContainer[str]
    rank: _containers.RepeatedScalarFieldContainer[int]
    alpha: _containers.RepeatedScalarFieldContainer[float]
    targets: _containers.RepeatedScalarFieldContainer[str]
    images_seen: _containers.RepeatedScalarFieldContainer[int]
    learning_rate: _containers.RepeatedScalarFieldContainer[float]
    batch_size: int
    caption_dropout: float
    image_size: int
    seed: int
    def __init__(self, base_model: _Optional[str] = ..., method: _Optional[_Iterable[str]] = ..., rank: _Optional[_Iterable[int]] = ..., alpha: _Optional[_Iterable[float]] = ..., targets: _Optional[_Iterable[str]] = ..., images_seen: _Optional[_Iterable[int]] = ..., learning_rate: _Optional[_Iterable[float]] = ..., batch_size: _Optional[int] = ..., caption_dropout: _Optional[float] = ..., image_size: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class SynthesisSpec(_message.Message):
    __slots__ = ("prompt", "steps", "guidance_scale", "per_class", "seed")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    PER_CLASS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    steps: int
    guidance_scale: float
    per_class: int
    seed: int
    def __init__(self, prompt: _Optional[str] = ..., steps: _Optional[int] = ..., guidance_scale: _Optional[float] = ..., per_class: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class SelectionSpec(_message.Message):
    __slots__ = ("class_consistency",)
    CLASS_CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    class_consistency: float
    def __init__(self, class_consistency: _Optional[float] = ...) -> None: ...

class CreateStudyRequest(_message.Message):
    __slots__ = ("spec", "validate_only")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    spec: StudySpec
    validate_only: bool
    def __init__(self, spec: _Optional[_Union[StudySpec, _Mapping]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class StudyPlan(_message.Message):
    __slots__ = ("name", "spec", "steps", "predicted_seconds", "warnings", "predicted_wall_seconds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_WALL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: StudySpec
    steps: _containers.RepeatedCompositeFieldContainer[PlannedStep]
    predicted_seconds: float
    warnings: _containers.RepeatedScalarFieldContainer[str]
    predicted_wall_seconds: float
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[StudySpec, _Mapping]] = ..., steps: _Optional[_Iterable[_Union[PlannedStep, _Mapping]]] = ..., predicted_seconds: _Optional[float] = ..., warnings: _Optional[_Iterable[str]] = ..., predicted_wall_seconds: _Optional[float] = ...) -> None: ...

class PlannedStep(_message.Message):
    __slots__ = ("display_name", "plan", "workers")
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    display_name: str
    plan: _operations_pb2_1.Plan
    workers: int
    def __init__(self, display_name: _Optional[str] = ..., plan: _Optional[_Union[_operations_pb2_1.Plan, _Mapping]] = ..., workers: _Optional[int] = ...) -> None: ...

class Study(_message.Message):
    __slots__ = ("name", "spec", "create_time", "state", "dataset", "split", "adapters", "image_sets", "evaluation", "verdict", "payloads", "operation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SETS_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: StudySpec
    create_time: _timestamp_pb2.Timestamp
    state: _operations_pb2_1.State
    dataset: str
    split: str
    adapters: _containers.RepeatedScalarFieldContainer[str]
    image_sets: _containers.RepeatedScalarFieldContainer[str]
    evaluation: str
    verdict: str
    payloads: _containers.RepeatedCompositeFieldContainer[_artifacts_pb2.Payload]
    operation: str
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[StudySpec, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[_operations_pb2_1.State, str]] = ..., dataset: _Optional[str] = ..., split: _Optional[str] = ..., adapters: _Optional[_Iterable[str]] = ..., image_sets: _Optional[_Iterable[str]] = ..., evaluation: _Optional[str] = ..., verdict: _Optional[str] = ..., payloads: _Optional[_Iterable[_Union[_artifacts_pb2.Payload, _Mapping]]] = ..., operation: _Optional[str] = ...) -> None: ...

class GetStudyRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListStudiesRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "spec_name", "unfinished_only")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SPEC_NAME_FIELD_NUMBER: _ClassVar[int]
    UNFINISHED_ONLY_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    spec_name: str
    unfinished_only: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., spec_name: _Optional[str] = ..., unfinished_only: _Optional[bool] = ...) -> None: ...

class ListStudiesResponse(_message.Message):
    __slots__ = ("studies", "next_page_token")
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    studies: _containers.RepeatedCompositeFieldContainer[Study]
    next_page_token: str
    def __init__(self, studies: _Optional[_Iterable[_Union[Study, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchStudyRequest(_message.Message):
    __slots__ = ("name", "resume_marker")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RESUME_MARKER_FIELD_NUMBER: _ClassVar[int]
    name: str
    resume_marker: str
    def __init__(self, name: _Optional[str] = ..., resume_marker: _Optional[str] = ...) -> None: ...

class WatchStudyResponse(_message.Message):
    __slots__ = ("progress", "resume_marker", "study")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESUME_MARKER_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    progress: _operations_pb2_1.OperationMetadata
    resume_marker: str
    study: Study
    def __init__(self, progress: _Optional[_Union[_operations_pb2_1.OperationMetadata, _Mapping]] = ..., resume_marker: _Optional[str] = ..., study: _Optional[_Union[Study, _Mapping]] = ...) -> None: ...
