import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.longrunning import operations_pb2 as _operations_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from synthmix.api.artifacts.v1 import artifacts_pb2 as _artifacts_pb2
from synthmix.api.options.v1 import field_rules_pb2 as _field_rules_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CreateEvaluationRequest(_message.Message):
    __slots__ = ("evaluation", "validate_only", "await_image_sets")
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    AWAIT_IMAGE_SETS_FIELD_NUMBER: _ClassVar[int]
    evaluation: Evaluation
    validate_only: bool
    await_image_sets: bool
    def __init__(self, evaluation: _Optional[_Union[Evaluation, _Mapping]] = ..., validate_only: _Optional[bool] = ..., await_image_sets: _Optional[bool] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("name", "split", "image_sets", "mixtures", "classifier", "seeds", "claim", "create_time", "trial_count", "comparison", "seconds", "gpu_seconds", "payloads", "fidelity", "requested_by", "requested_by_me", "measures")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SETS_FIELD_NUMBER: _ClassVar[int]
    MIXTURES_FIELD_NUMBER: _ClassVar[int]
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    TRIAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    GPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    FIDELITY_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_ME_FIELD_NUMBER: _ClassVar[int]
    MEASURES_FIELD_NUMBER: _ClassVar[int]
    name: str
    split: str
    image_sets: _containers.RepeatedScalarFieldContainer[str]
    mixtures: MixtureSettings
    classifier: ClassifierSettings
    seeds: int
    claim: ClaimSettings
    create_time: _timestamp_pb2.Timestamp
    trial_count: int
    comparison: Comparison
    seconds: float
    gpu_seconds: float
    payloads: _containers.RepeatedCompositeFieldContainer[_artifacts_pb2.Payload]
    fidelity: Fidelity
    requested_by: _containers.RepeatedScalarFieldContainer[str]
    requested_by_me: bool
    measures: MeasureSettings
    def __init__(self, name: _Optional[str] = ..., split: _Optional[str] = ..., image_sets: _Optional[_Iterable[str]] = ..., mixtures: _Optional[_Union[MixtureSettings, _Mapping]] = ..., classifier: _Optional[_Union[ClassifierSettings, _Mapping]] = ..., seeds: _Optional[int] = ..., claim: _Optional[_Union[ClaimSettings, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., trial_count: _Optional[int] = ..., comparison: _Optional[_Union[Comparison, _Mapping]] = ..., seconds: _Optional[float] = ..., gpu_seconds: _Optional[float] = ..., payloads: _Optional[_Iterable[_Union[_artifacts_pb2.Payload, _Mapping]]] = ..., fidelity: _Optional[_Union[Fidelity, _Mapping]] = ..., requested_by: _Optional[_Iterable[str]] = ..., requested_by_me: _Optional[bool] = ..., measures: _Optional[_Union[MeasureSettings, _Mapping]] = ...) -> None: ...

class MixtureSettings(_message.Message):
    __slots__ = ("preset", "variant", "mode", "ratios", "synthetic_only", "controls", "soft_label_gamma")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    RATIOS_FIELD_NUMBER: _ClassVar[int]
    SYNTHETIC_ONLY_FIELD_NUMBER: _ClassVar[int]
    CONTROLS_FIELD_NUMBER: _ClassVar[int]
    SOFT_LABEL_GAMMA_FIELD_NUMBER: _ClassVar[int]
    preset: str
    variant: str
    mode: str
    ratios: _containers.RepeatedScalarFieldContainer[float]
    synthetic_only: bool
    controls: _containers.RepeatedScalarFieldContainer[str]
    soft_label_gamma: float
    def __init__(self, preset: _Optional[str] = ..., variant: _Optional[str] = ..., mode: _Optional[str] = ..., ratios: _Optional[_Iterable[float]] = ..., synthetic_only: _Optional[bool] = ..., controls: _Optional[_Iterable[str]] = ..., soft_label_gamma: _Optional[float] = ...) -> None: ...

class ClassifierSettings(_message.Message):
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

class ClaimSettings(_message.Message):
    __slots__ = ("margin", "confidence")
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    margin: float
    confidence: float
    def __init__(self, margin: _Optional[float] = ..., confidence: _Optional[float] = ...) -> None: ...

class MeasureSettings(_message.Message):
    __slots__ = ("feature_network", "image_size")
    FEATURE_NETWORK_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    feature_network: str
    image_size: int
    def __init__(self, feature_network: _Optional[str] = ..., image_size: _Optional[int] = ...) -> None: ...

class Mixture(_message.Message):
    __slots__ = ("key", "label", "kind", "ratio", "image_set", "image_set_label")
    KEY_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SET_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SET_LABEL_FIELD_NUMBER: _ClassVar[int]
    key: str
    label: str
    kind: str
    ratio: float
    image_set: str
    image_set_label: str
    def __init__(self, key: _Optional[str] = ..., label: _Optional[str] = ..., kind: _Optional[str] = ..., ratio: _Optional[float] = ..., image_set: _Optional[str] = ..., image_set_label: _Optional[str] = ...) -> None: ...

class MixtureKind(_message.Message):
    __slots__ = ("name", "label", "axis_title", "sentence", "control")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    AXIS_TITLE_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    name: str
    label: str
    axis_title: str
    sentence: str
    control: bool
    def __init__(self, name: _Optional[str] = ..., label: _Optional[str] = ..., axis_title: _Optional[str] = ..., sentence: _Optional[str] = ..., control: _Optional[bool] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("mean", "low", "high", "per_seed", "seed_share")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    PER_SEED_FIELD_NUMBER: _ClassVar[int]
    SEED_SHARE_FIELD_NUMBER: _ClassVar[int]
    mean: float
    low: float
    high: float
    per_seed: _containers.RepeatedScalarFieldContainer[float]
    seed_share: float
    def __init__(self, mean: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., per_seed: _Optional[_Iterable[float]] = ..., seed_share: _Optional[float] = ...) -> None: ...

class MixtureResult(_message.Message):
    __slots__ = ("mixture", "validation_balanced_accuracy", "balanced_accuracy", "difference")
    MIXTURE_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_BALANCED_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    BALANCED_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    mixture: Mixture
    validation_balanced_accuracy: float
    balanced_accuracy: Estimate
    difference: Estimate
    def __init__(self, mixture: _Optional[_Union[Mixture, _Mapping]] = ..., validation_balanced_accuracy: _Optional[float] = ..., balanced_accuracy: _Optional[_Union[Estimate, _Mapping]] = ..., difference: _Optional[_Union[Estimate, _Mapping]] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("kind", "key", "sentence", "excludes_gain_of_margin", "excludes_loss_of_margin", "limit")
    KIND_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDES_GAIN_OF_MARGIN_FIELD_NUMBER: _ClassVar[int]
    EXCLUDES_LOSS_OF_MARGIN_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    key: str
    sentence: str
    excludes_gain_of_margin: bool
    excludes_loss_of_margin: bool
    limit: str
    def __init__(self, kind: _Optional[str] = ..., key: _Optional[str] = ..., sentence: _Optional[str] = ..., excludes_gain_of_margin: _Optional[bool] = ..., excludes_loss_of_margin: _Optional[bool] = ..., limit: _Optional[str] = ...) -> None: ...

class Comparison(_message.Message):
    __slots__ = ("reference", "candidates", "confidence", "margin", "seeds", "test_images", "test_groups", "test_classes", "resampled", "resamples", "mixtures", "kinds", "verdict", "warnings")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    TEST_IMAGES_FIELD_NUMBER: _ClassVar[int]
    TEST_GROUPS_FIELD_NUMBER: _ClassVar[int]
    TEST_CLASSES_FIELD_NUMBER: _ClassVar[int]
    RESAMPLED_FIELD_NUMBER: _ClassVar[int]
    RESAMPLES_FIELD_NUMBER: _ClassVar[int]
    MIXTURES_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    reference: str
    candidates: _containers.RepeatedScalarFieldContainer[str]
    confidence: float
    margin: float
    seeds: int
    test_images: int
    test_groups: int
    test_classes: int
    resampled: str
    resamples: int
    mixtures: _containers.RepeatedCompositeFieldContainer[MixtureResult]
    kinds: _containers.RepeatedCompositeFieldContainer[MixtureKind]
    verdict: Verdict
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, reference: _Optional[str] = ..., candidates: _Optional[_Iterable[str]] = ..., confidence: _Optional[float] = ..., margin: _Optional[float] = ..., seeds: _Optional[int] = ..., test_images: _Optional[int] = ..., test_groups: _Optional[int] = ..., test_classes: _Optional[int] = ..., resampled: _Optional[str] = ..., resamples: _Optional[int] = ..., mixtures: _Optional[_Iterable[_Union[MixtureResult, _Mapping]]] = ..., kinds: _Optional[_Iterable[_Union[MixtureKind, _Mapping]]] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class Training(_message.Message):
    __slots__ = ("mixture", "seed", "classes", "real_images", "synthetic_images", "optimizer_steps", "epochs", "best_epoch", "test_reads")
    MIXTURE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    REAL_IMAGES_FIELD_NUMBER: _ClassVar[int]
    SYNTHETIC_IMAGES_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_STEPS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    BEST_EPOCH_FIELD_NUMBER: _ClassVar[int]
    TEST_READS_FIELD_NUMBER: _ClassVar[int]
    mixture: str
    seed: int
    classes: _containers.RepeatedScalarFieldContainer[str]
    real_images: int
    synthetic_images: int
    optimizer_steps: int
    epochs: _containers.RepeatedCompositeFieldContainer[Epoch]
    best_epoch: int
    test_reads: int
    def __init__(self, mixture: _Optional[str] = ..., seed: _Optional[int] = ..., classes: _Optional[_Iterable[str]] = ..., real_images: _Optional[int] = ..., synthetic_images: _Optional[int] = ..., optimizer_steps: _Optional[int] = ..., epochs: _Optional[_Iterable[_Union[Epoch, _Mapping]]] = ..., best_epoch: _Optional[int] = ..., test_reads: _Optional[int] = ...) -> None: ...

class Epoch(_message.Message):
    __slots__ = ("train_loss", "validation_balanced_accuracy", "validation_loss")
    TRAIN_LOSS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_BALANCED_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_LOSS_FIELD_NUMBER: _ClassVar[int]
    train_loss: float
    validation_balanced_accuracy: float
    validation_loss: float
    def __init__(self, train_loss: _Optional[float] = ..., validation_balanced_accuracy: _Optional[float] = ..., validation_loss: _Optional[float] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("name", "label", "larger_is_better")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    LARGER_IS_BETTER_FIELD_NUMBER: _ClassVar[int]
    name: str
    label: str
    larger_is_better: bool
    def __init__(self, name: _Optional[str] = ..., label: _Optional[str] = ..., larger_is_better: _Optional[bool] = ...) -> None: ...

class TrialResult(_message.Message):
    __slots__ = ("trial", "training", "test_metrics", "validation_metrics", "classes")
    class TestMetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class ValidationMetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    TEST_METRICS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_METRICS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    trial: str
    training: Training
    test_metrics: _containers.ScalarMap[str, float]
    validation_metrics: _containers.ScalarMap[str, float]
    classes: _containers.RepeatedCompositeFieldContainer[ClassResult]
    def __init__(self, trial: _Optional[str] = ..., training: _Optional[_Union[Training, _Mapping]] = ..., test_metrics: _Optional[_Mapping[str, float]] = ..., validation_metrics: _Optional[_Mapping[str, float]] = ..., classes: _Optional[_Iterable[_Union[ClassResult, _Mapping]]] = ...) -> None: ...

class ClassResult(_message.Message):
    __slots__ = ("label", "images", "precision", "recall", "predicted_as")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_AS_FIELD_NUMBER: _ClassVar[int]
    label: str
    images: int
    precision: float
    recall: float
    predicted_as: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, label: _Optional[str] = ..., images: _Optional[int] = ..., precision: _Optional[float] = ..., recall: _Optional[float] = ..., predicted_as: _Optional[_Iterable[int]] = ...) -> None: ...

class TrialResults(_message.Message):
    __slots__ = ("metrics", "trials")
    METRICS_FIELD_NUMBER: _ClassVar[int]
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    trials: _containers.RepeatedCompositeFieldContainer[TrialResult]
    def __init__(self, metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ..., trials: _Optional[_Iterable[_Union[TrialResult, _Mapping]]] = ...) -> None: ...

class Fidelity(_message.Message):
    __slots__ = ("feature_network", "image_size", "near_copy_percentile", "sources", "near_copy_distance", "measures", "confidence", "least_images", "network_image_size")
    FEATURE_NETWORK_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    NEAR_COPY_PERCENTILE_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    NEAR_COPY_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    MEASURES_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    LEAST_IMAGES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    feature_network: str
    image_size: int
    near_copy_percentile: float
    sources: _containers.RepeatedCompositeFieldContainer[SourceFidelity]
    near_copy_distance: float
    measures: _containers.RepeatedCompositeFieldContainer[FidelityMeasure]
    confidence: float
    least_images: int
    network_image_size: int
    def __init__(self, feature_network: _Optional[str] = ..., image_size: _Optional[int] = ..., near_copy_percentile: _Optional[float] = ..., sources: _Optional[_Iterable[_Union[SourceFidelity, _Mapping]]] = ..., near_copy_distance: _Optional[float] = ..., measures: _Optional[_Iterable[_Union[FidelityMeasure, _Mapping]]] = ..., confidence: _Optional[float] = ..., least_images: _Optional[int] = ..., network_image_size: _Optional[int] = ...) -> None: ...

class FidelityMeasure(_message.Message):
    __slots__ = ("name", "label", "sentence", "is_share")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    IS_SHARE_FIELD_NUMBER: _ClassVar[int]
    name: str
    label: str
    sentence: str
    is_share: bool
    def __init__(self, name: _Optional[str] = ..., label: _Optional[str] = ..., sentence: _Optional[str] = ..., is_share: _Optional[bool] = ...) -> None: ...

class SourceFidelity(_message.Message):
    __slots__ = ("label", "image_set", "images", "kernel_inception_distance", "near_copy_share", "near_source_share", "source_distance", "measured", "nearest_pairs")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SET_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    KERNEL_INCEPTION_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    NEAR_COPY_SHARE_FIELD_NUMBER: _ClassVar[int]
    NEAR_SOURCE_SHARE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    NEAREST_PAIRS_FIELD_NUMBER: _ClassVar[int]
    label: str
    image_set: str
    images: int
    kernel_inception_distance: float
    near_copy_share: float
    near_source_share: float
    source_distance: float
    measured: _containers.RepeatedCompositeFieldContainer[MeasuredImages]
    nearest_pairs: _containers.RepeatedCompositeFieldContainer[NearPair]
    def __init__(self, label: _Optional[str] = ..., image_set: _Optional[str] = ..., images: _Optional[int] = ..., kernel_inception_distance: _Optional[float] = ..., near_copy_share: _Optional[float] = ..., near_source_share: _Optional[float] = ..., source_distance: _Optional[float] = ..., measured: _Optional[_Iterable[_Union[MeasuredImages, _Mapping]]] = ..., nearest_pairs: _Optional[_Iterable[_Union[NearPair, _Mapping]]] = ...) -> None: ...

class MeasuredImages(_message.Message):
    __slots__ = ("class_name", "values")
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    class_name: str
    values: _containers.RepeatedCompositeFieldContainer[MeasuredValue]
    def __init__(self, class_name: _Optional[str] = ..., values: _Optional[_Iterable[_Union[MeasuredValue, _Mapping]]] = ...) -> None: ...

class MeasuredValue(_message.Message):
    __slots__ = ("name", "value", "low", "high", "images")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    low: float
    high: float
    images: int
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., images: _Optional[int] = ...) -> None: ...

class NearPair(_message.Message):
    __slots__ = ("image", "train_image", "class_name", "distance")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TRAIN_IMAGE_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    image: str
    train_image: str
    class_name: str
    distance: float
    def __init__(self, image: _Optional[str] = ..., train_image: _Optional[str] = ..., class_name: _Optional[str] = ..., distance: _Optional[float] = ...) -> None: ...

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
    __slots__ = ("evaluations", "next_page_token", "unreachable")
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    evaluations: _containers.RepeatedCompositeFieldContainer[Evaluation]
    next_page_token: str
    unreachable: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, evaluations: _Optional[_Iterable[_Union[Evaluation, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., unreachable: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteEvaluationRequest(_message.Message):
    __slots__ = ("name", "force", "validate_only")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    name: str
    force: bool
    validate_only: bool
    def __init__(self, name: _Optional[str] = ..., force: _Optional[bool] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class CreateImageSetScoreRequest(_message.Message):
    __slots__ = ("image_set_score", "validate_only")
    IMAGE_SET_SCORE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    image_set_score: ImageSetScore
    validate_only: bool
    def __init__(self, image_set_score: _Optional[_Union[ImageSetScore, _Mapping]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class GetImageSetScoreRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ImageSetScore(_message.Message):
    __slots__ = ("name", "split", "image_set", "create_time", "class_consistency", "chance_level", "real_class_consistency", "kernel_inception_distance", "images", "feature_network", "image_size", "seconds", "gpu_seconds", "requested_by", "requested_by_me")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SET_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    CLASS_CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    CHANCE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    REAL_CLASS_CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    KERNEL_INCEPTION_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    FEATURE_NETWORK_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    GPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_ME_FIELD_NUMBER: _ClassVar[int]
    name: str
    split: str
    image_set: str
    create_time: _timestamp_pb2.Timestamp
    class_consistency: float
    chance_level: float
    real_class_consistency: float
    kernel_inception_distance: float
    images: int
    feature_network: str
    image_size: int
    seconds: float
    gpu_seconds: float
    requested_by: _containers.RepeatedScalarFieldContainer[str]
    requested_by_me: bool
    def __init__(self, name: _Optional[str] = ..., split: _Optional[str] = ..., image_set: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., class_consistency: _Optional[float] = ..., chance_level: _Optional[float] = ..., real_class_consistency: _Optional[float] = ..., kernel_inception_distance: _Optional[float] = ..., images: _Optional[int] = ..., feature_network: _Optional[str] = ..., image_size: _Optional[int] = ..., seconds: _Optional[float] = ..., gpu_seconds: _Optional[float] = ..., requested_by: _Optional[_Iterable[str]] = ..., requested_by_me: _Optional[bool] = ...) -> None: ...
