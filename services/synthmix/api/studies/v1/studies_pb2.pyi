import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from synthmix.api.adapters.v1 import adapters_pb2 as _adapters_pb2
from synthmix.api.artifacts.v1 import artifacts_pb2 as _artifacts_pb2
from synthmix.api.datasets.v1 import datasets_pb2 as _datasets_pb2
from synthmix.api.evaluations.v1 import evaluations_pb2 as _evaluations_pb2
from synthmix.api.image_sets.v1 import image_sets_pb2 as _image_sets_pb2
from synthmix.api.operations.v1 import operations_pb2 as _operations_pb2_1
from synthmix.api.options.v1 import field_rules_pb2 as _field_rules_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StudySpec(_message.Message):
    __slots__ = ("name", "dataset", "split", "adapters", "synthesis", "selection", "mixtures", "classifier", "seeds", "claim", "search", "image_sets", "measures", "preset", "variant")
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
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SETS_FIELD_NUMBER: _ClassVar[int]
    MEASURES_FIELD_NUMBER: _ClassVar[int]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    name: str
    dataset: str
    split: _datasets_pb2.SplitSettings
    adapters: _containers.RepeatedCompositeFieldContainer[_adapters_pb2.AdapterSettings]
    synthesis: _containers.RepeatedCompositeFieldContainer[_image_sets_pb2.SynthesisSettings]
    selection: _containers.RepeatedCompositeFieldContainer[_image_sets_pb2.SelectionSettings]
    mixtures: _evaluations_pb2.MixtureSettings
    classifier: _evaluations_pb2.ClassifierSettings
    seeds: int
    claim: _evaluations_pb2.ClaimSettings
    search: SearchSettings
    image_sets: _containers.RepeatedScalarFieldContainer[str]
    measures: _evaluations_pb2.MeasureSettings
    preset: str
    variant: str
    def __init__(self, name: _Optional[str] = ..., dataset: _Optional[str] = ..., split: _Optional[_Union[_datasets_pb2.SplitSettings, _Mapping]] = ..., adapters: _Optional[_Iterable[_Union[_adapters_pb2.AdapterSettings, _Mapping]]] = ..., synthesis: _Optional[_Iterable[_Union[_image_sets_pb2.SynthesisSettings, _Mapping]]] = ..., selection: _Optional[_Iterable[_Union[_image_sets_pb2.SelectionSettings, _Mapping]]] = ..., mixtures: _Optional[_Union[_evaluations_pb2.MixtureSettings, _Mapping]] = ..., classifier: _Optional[_Union[_evaluations_pb2.ClassifierSettings, _Mapping]] = ..., seeds: _Optional[int] = ..., claim: _Optional[_Union[_evaluations_pb2.ClaimSettings, _Mapping]] = ..., search: _Optional[_Union[SearchSettings, _Mapping]] = ..., image_sets: _Optional[_Iterable[str]] = ..., measures: _Optional[_Union[_evaluations_pb2.MeasureSettings, _Mapping]] = ..., preset: _Optional[str] = ..., variant: _Optional[str] = ...) -> None: ...

class SearchSettings(_message.Message):
    __slots__ = ("budget_seconds", "keep", "sampler", "score", "reduction_factor", "rungs", "images_per_class", "seed")
    BUDGET_SECONDS_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    SAMPLER_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FACTOR_FIELD_NUMBER: _ClassVar[int]
    RUNGS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_PER_CLASS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    budget_seconds: float
    keep: int
    sampler: str
    score: str
    reduction_factor: int
    rungs: int
    images_per_class: int
    seed: int
    def __init__(self, budget_seconds: _Optional[float] = ..., keep: _Optional[int] = ..., sampler: _Optional[str] = ..., score: _Optional[str] = ..., reduction_factor: _Optional[int] = ..., rungs: _Optional[int] = ..., images_per_class: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class CreateStudyRequest(_message.Message):
    __slots__ = ("spec", "validate_only")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    spec: StudySpec
    validate_only: bool
    def __init__(self, spec: _Optional[_Union[StudySpec, _Mapping]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class StudyPlan(_message.Message):
    __slots__ = ("name", "spec", "steps", "predicted_seconds", "warnings", "predicted_wall_seconds", "search")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_WALL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec: StudySpec
    steps: _containers.RepeatedCompositeFieldContainer[PlannedStep]
    predicted_seconds: float
    warnings: _containers.RepeatedScalarFieldContainer[str]
    predicted_wall_seconds: float
    search: SearchPlan
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[StudySpec, _Mapping]] = ..., steps: _Optional[_Iterable[_Union[PlannedStep, _Mapping]]] = ..., predicted_seconds: _Optional[float] = ..., warnings: _Optional[_Iterable[str]] = ..., predicted_wall_seconds: _Optional[float] = ..., search: _Optional[_Union[SearchPlan, _Mapping]] = ...) -> None: ...

class SearchPlan(_message.Message):
    __slots__ = ("budget_seconds", "candidates", "full_seconds")
    BUDGET_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    FULL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    budget_seconds: float
    candidates: _containers.RepeatedCompositeFieldContainer[PlannedCandidate]
    full_seconds: float
    def __init__(self, budget_seconds: _Optional[float] = ..., candidates: _Optional[_Iterable[_Union[PlannedCandidate, _Mapping]]] = ..., full_seconds: _Optional[float] = ...) -> None: ...

class PlannedCandidate(_message.Message):
    __slots__ = ("display_name", "plan", "rungs")
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    RUNGS_FIELD_NUMBER: _ClassVar[int]
    display_name: str
    plan: _operations_pb2_1.Plan
    rungs: _containers.RepeatedCompositeFieldContainer[PlannedRung]
    def __init__(self, display_name: _Optional[str] = ..., plan: _Optional[_Union[_operations_pb2_1.Plan, _Mapping]] = ..., rungs: _Optional[_Iterable[_Union[PlannedRung, _Mapping]]] = ...) -> None: ...

class PlannedRung(_message.Message):
    __slots__ = ("images_seen", "predicted_seconds")
    IMAGES_SEEN_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    images_seen: int
    predicted_seconds: float
    def __init__(self, images_seen: _Optional[int] = ..., predicted_seconds: _Optional[float] = ...) -> None: ...

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
    __slots__ = ("name", "spec", "create_time", "state", "dataset", "split", "adapters", "image_sets", "evaluation", "verdict", "payloads", "operation", "requested_by", "requested_by_me")
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
    REQUESTED_BY_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_ME_FIELD_NUMBER: _ClassVar[int]
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
    requested_by: _containers.RepeatedScalarFieldContainer[str]
    requested_by_me: bool
    def __init__(self, name: _Optional[str] = ..., spec: _Optional[_Union[StudySpec, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[_operations_pb2_1.State, str]] = ..., dataset: _Optional[str] = ..., split: _Optional[str] = ..., adapters: _Optional[_Iterable[str]] = ..., image_sets: _Optional[_Iterable[str]] = ..., evaluation: _Optional[str] = ..., verdict: _Optional[str] = ..., payloads: _Optional[_Iterable[_Union[_artifacts_pb2.Payload, _Mapping]]] = ..., operation: _Optional[str] = ..., requested_by: _Optional[_Iterable[str]] = ..., requested_by_me: _Optional[bool] = ...) -> None: ...

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
    __slots__ = ("studies", "next_page_token", "unreachable")
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    studies: _containers.RepeatedCompositeFieldContainer[Study]
    next_page_token: str
    unreachable: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, studies: _Optional[_Iterable[_Union[Study, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., unreachable: _Optional[_Iterable[str]] = ...) -> None: ...

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

class DeleteStudyRequest(_message.Message):
    __slots__ = ("name", "force", "validate_only")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    name: str
    force: bool
    validate_only: bool
    def __init__(self, name: _Optional[str] = ..., force: _Optional[bool] = ..., validate_only: _Optional[bool] = ...) -> None: ...
