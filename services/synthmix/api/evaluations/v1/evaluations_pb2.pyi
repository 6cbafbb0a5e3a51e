import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from synthmix.api.artifacts.v1 import artifacts_pb2 as _artifacts_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateEvaluationRequest(_message.Message):
    __slots__ = ("evaluation", "validate_only")
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    evaluation: Evaluation
    validate_only: bool
    def __init__(self, evaluation: _Optional[_Union[Evaluation, _Mapping]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("name", "split", "image_sets", "mixtures", "classifier", "seeds", "claim", "create_time", "trial_count", "results", "seconds", "gpu_seconds", "payloads")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SETS_FIELD_NUMBER: _ClassVar[int]
    MIXTURES_FIELD_NUMBER: _ClassVar[int]
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    TRIAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    GPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    name: str
    split: str
    image_sets: _containers.RepeatedScalarFieldContainer[str]
    mixtures: Mixtures
    classifier: Classifier
    seeds: int
    claim: Claim
    create_time: _timestamp_pb2.Timestamp
    trial_count: int
    results: _containers.RepeatedCompositeFieldContainer[MixtureResult]
    seconds: float
    gpu_seconds: float
    payloads: _containers.RepeatedCompositeFieldContainer[_artifacts_pb2.Payload]
    def __init__(self, name: _Optional[str] = ..., split: _Optional[str] = ..., image_sets: _Optional[_Iterable[str]] = ..., mixtures: _Optional[_Union[Mixtures, _Mapping]] = ..., classifier: _Optional[_Union[Classifier, _Mapping]] = ..., seeds: _Optional[int] = ..., claim: _Optional[_Union[Claim, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., trial_count: _Optional[int] = ..., results: _Optional[_Iterable[_Union[MixtureResult, _Mapping]]] = ..., seconds: _Optional[float] = ..., gpu_seconds: _Optional[float] = ..., payloads: _Optional[_Iterable[_Union[_artifacts_pb2.Payload, _Mapping]]] = ...) -> None: ...

class Mixtures(_message.Message):
    __slots__ = ("mode", "ratios", "synthetic_only", "controls")
    MODE_FIELD_NUMBER: _ClassVar[int]
    RATIOS_FIELD_NUMBER: _ClassVar[int]
    SYNTHETIC_ONLY_FIELD_NUMBER: _ClassVar[int]
    CONTROLS_FIELD_NUMBER: _ClassVar[int]
    mode: str
    ratios: _containers.RepeatedScalarFieldContainer[float]
    synthetic_only: bool
    controls: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, mode: _Optional[str] = ..., ratios: _Optional[_Iterable[float]] = ..., synthetic_only: _Optional[bool] = ..., controls: _Optional[_Iterable[str]] = ...) -> None: ...

class Classifier(_message.Message):
    __slots__ = ("architecture", "pretrained", "image_size", "match", "epochs", "batch_size", "learning_rate", "augmentation")
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    PRETRAINED_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    AUGMENTATION_FIELD_NUMBER: _ClassVar[int]
    architecture: str
    pretrained: bool
    image_size: int
    match: str
    epochs: int
    batch_size: int
    learning_rate: float
    augmentation: bool
    def __init__(self, architecture: _Optional[str] = ..., pretrained: _Optional[bool] = ..., image_size: _Optional[int] = ..., match: _Optional[str] = ..., epochs: _Optional[int] = ..., batch_size: _Optional[int] = ..., learning_rate: _Optional[float] = ..., augmentation: _Optional[bool] = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("margin", "confidence")
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    margin: float
    confidence: float
    def __init__(self, margin: _Optional[float] = ..., confidence: _Optional[float] = ...) -> None: ...

class MixtureResult(_message.Message):
    __slots__ = ("mixture", "image_set", "ratio", "trials", "balanced_accuracy", "balanced_accuracy_interval", "difference", "difference_interval")
    MIXTURE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SET_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    BALANCED_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    BALANCED_ACCURACY_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    mixture: str
    image_set: str
    ratio: float
    trials: int
    balanced_accuracy: float
    balanced_accuracy_interval: Interval
    difference: float
    difference_interval: Interval
    def __init__(self, mixture: _Optional[str] = ..., image_set: _Optional[str] = ..., ratio: _Optional[float] = ..., trials: _Optional[int] = ..., balanced_accuracy: _Optional[float] = ..., balanced_accuracy_interval: _Optional[_Union[Interval, _Mapping]] = ..., difference: _Optional[float] = ..., difference_interval: _Optional[_Union[Interval, _Mapping]] = ...) -> None: ...

class Interval(_message.Message):
    __slots__ = ("low", "high")
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    low: float
    high: float
    def __init__(self, low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class GetEvaluationRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListEvaluationsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListEvaluationsResponse(_message.Message):
    __slots__ = ("evaluations", "next_page_token")
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    evaluations: _containers.RepeatedCompositeFieldContainer[Evaluation]
    next_page_token: str
    def __init__(self, evaluations: _Optional[_Iterable[_Union[Evaluation, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
