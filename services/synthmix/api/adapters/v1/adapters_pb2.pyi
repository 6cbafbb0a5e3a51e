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

class CreateAdapterRequest(_message.Message):
    __slots__ = ("adapter", "validate_only")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    adapter: Adapter
    validate_only: bool
    def __init__(self, adapter: _Optional[_Union[Adapter, _Mapping]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class AdapterSettings(_message.Message):
    __slots__ = ("preset", "variant", "base_model", "method", "rank", "alpha", "targets", "images_seen", "batch_size", "learning_rate", "prompt", "image_size", "caption_dropout", "seed", "block_size", "factor", "dropout", "more_prompts", "min_snr_gamma", "noise_offset", "least_noise", "most_noise", "timestep_sampling", "distribution_matching", "loraplus_ratio", "ema_decay", "weight_decay", "learning_rate_schedule", "warmup", "held_out", "evaluations", "patience", "per", "text_encoder_targets", "text_encoder_learning_rate", "class_tokens", "class_token_word", "class_token_learning_rate", "class_token_images_seen", "optimizer", "gradient_checkpointing", "precision", "prior_preservation", "prior_preservation_source", "prior_images", "prior_prompt", "previews", "stop_at", "caption_column")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_SEEN_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    CAPTION_DROPOUT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    DROPOUT_FIELD_NUMBER: _ClassVar[int]
    MORE_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    MIN_SNR_GAMMA_FIELD_NUMBER: _ClassVar[int]
    NOISE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    LEAST_NOISE_FIELD_NUMBER: _ClassVar[int]
    MOST_NOISE_FIELD_NUMBER: _ClassVar[int]
    TIMESTEP_SAMPLING_FIELD_NUMBER: _ClassVar[int]
    DISTRIBUTION_MATCHING_FIELD_NUMBER: _ClassVar[int]
    LORAPLUS_RATIO_FIELD_NUMBER: _ClassVar[int]
    EMA_DECAY_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    WARMUP_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_FIELD_NUMBER: _ClassVar[int]
    PER_FIELD_NUMBER: _ClassVar[int]
    TEXT_ENCODER_TARGETS_FIELD_NUMBER: _ClassVar[int]
    TEXT_ENCODER_LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    CLASS_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CLASS_TOKEN_WORD_FIELD_NUMBER: _ClassVar[int]
    CLASS_TOKEN_LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    CLASS_TOKEN_IMAGES_SEEN_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_CHECKPOINTING_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    PRIOR_PRESERVATION_FIELD_NUMBER: _ClassVar[int]
    PRIOR_PRESERVATION_SOURCE_FIELD_NUMBER: _ClassVar[int]
    PRIOR_IMAGES_FIELD_NUMBER: _ClassVar[int]
    PRIOR_PROMPT_FIELD_NUMBER: _ClassVar[int]
    PREVIEWS_FIELD_NUMBER: _ClassVar[int]
    STOP_AT_FIELD_NUMBER: _ClassVar[int]
    CAPTION_COLUMN_FIELD_NUMBER: _ClassVar[int]
    preset: str
    variant: str
    base_model: str
    method: str
    rank: int
    alpha: float
    targets: str
    images_seen: int
    batch_size: int
    learning_rate: float
    prompt: str
    image_size: int
    caption_dropout: float
    seed: int
    block_size: int
    factor: int
    dropout: float
    more_prompts: _containers.RepeatedScalarFieldContainer[str]
    min_snr_gamma: float
    noise_offset: float
    least_noise: float
    most_noise: float
    timestep_sampling: str
    distribution_matching: float
    loraplus_ratio: float
    ema_decay: float
    weight_decay: float
    learning_rate_schedule: str
    warmup: float
    held_out: float
    evaluations: int
    patience: int
    per: str
    text_encoder_targets: str
    text_encoder_learning_rate: float
    class_tokens: int
    class_token_word: str
    class_token_learning_rate: float
    class_token_images_seen: int
    optimizer: str
    gradient_checkpointing: bool
    precision: str
    prior_preservation: float
    prior_preservation_source: str
    prior_images: int
    prior_prompt: str
    previews: int
    stop_at: int
    caption_column: str
    def __init__(self, preset: _Optional[str] = ..., variant: _Optional[str] = ..., base_model: _Optional[str] = ..., method: _Optional[str] = ..., rank: _Optional[int] = ..., alpha: _Optional[float] = ..., targets: _Optional[str] = ..., images_seen: _Optional[int] = ..., batch_size: _Optional[int] = ..., learning_rate: _Optional[float] = ..., prompt: _Optional[str] = ..., image_size: _Optional[int] = ..., caption_dropout: _Optional[float] = ..., seed: _Optional[int] = ..., block_size: _Optional[int] = ..., factor: _Optional[int] = ..., dropout: _Optional[float] = ..., more_prompts: _Optional[_Iterable[str]] = ..., min_snr_gamma: _Optional[float] = ..., noise_offset: _Optional[float] = ..., least_noise: _Optional[float] = ..., most_noise: _Optional[float] = ..., timestep_sampling: _Optional[str] = ..., distribution_matching: _Optional[float] = ..., loraplus_ratio: _Optional[float] = ..., ema_decay: _Optional[float] = ..., weight_decay: _Optional[float] = ..., learning_rate_schedule: _Optional[str] = ..., warmup: _Optional[float] = ..., held_out: _Optional[float] = ..., evaluations: _Optional[int] = ..., patience: _Optional[int] = ..., per: _Optional[str] = ..., text_encoder_targets: _Optional[str] = ..., text_encoder_learning_rate: _Optional[float] = ..., class_tokens: _Optional[int] = ..., class_token_word: _Optional[str] = ..., class_token_learning_rate: _Optional[float] = ..., class_token_images_seen: _Optional[int] = ..., optimizer: _Optional[str] = ..., gradient_checkpointing: _Optional[bool] = ..., precision: _Optional[str] = ..., prior_preservation: _Optional[float] = ..., prior_preservation_source: _Optional[str] = ..., prior_images: _Optional[int] = ..., prior_prompt: _Optional[str] = ..., previews: _Optional[int] = ..., stop_at: _Optional[int] = ..., caption_column: _Optional[str] = ...) -> None: ...

class Adapter(_message.Message):
    __slots__ = ("name", "train_split", "settings", "create_time", "final_loss", "parameter_count", "seconds", "gpu_seconds", "payloads", "requested_by", "requested_by_me", "images_seen", "held_out_losses", "class_adapters", "imported", "base_model_kind", "original_size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TRAIN_SPLIT_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    FINAL_LOSS_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    GPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_ME_FIELD_NUMBER: _ClassVar[int]
    IMAGES_SEEN_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_LOSSES_FIELD_NUMBER: _ClassVar[int]
    CLASS_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    IMPORTED_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_KIND_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    train_split: str
    settings: AdapterSettings
    create_time: _timestamp_pb2.Timestamp
    final_loss: float
    parameter_count: int
    seconds: float
    gpu_seconds: float
    payloads: _containers.RepeatedCompositeFieldContainer[_artifacts_pb2.Payload]
    requested_by: _containers.RepeatedScalarFieldContainer[str]
    requested_by_me: bool
    images_seen: int
    held_out_losses: _containers.RepeatedCompositeFieldContainer[HeldOutLoss]
    class_adapters: _containers.RepeatedCompositeFieldContainer[ClassAdapter]
    imported: ImportedAdapter
    base_model_kind: str
    original_size: int
    def __init__(self, name: _Optional[str] = ..., train_split: _Optional[str] = ..., settings: _Optional[_Union[AdapterSettings, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., final_loss: _Optional[float] = ..., parameter_count: _Optional[int] = ..., seconds: _Optional[float] = ..., gpu_seconds: _Optional[float] = ..., payloads: _Optional[_Iterable[_Union[_artifacts_pb2.Payload, _Mapping]]] = ..., requested_by: _Optional[_Iterable[str]] = ..., requested_by_me: _Optional[bool] = ..., images_seen: _Optional[int] = ..., held_out_losses: _Optional[_Iterable[_Union[HeldOutLoss, _Mapping]]] = ..., class_adapters: _Optional[_Iterable[_Union[ClassAdapter, _Mapping]]] = ..., imported: _Optional[_Union[ImportedAdapter, _Mapping]] = ..., base_model_kind: _Optional[str] = ..., original_size: _Optional[int] = ...) -> None: ...

class ImportedAdapter(_message.Message):
    __slots__ = ("upload", "classes", "grey")
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    GREY_FIELD_NUMBER: _ClassVar[int]
    upload: str
    classes: _containers.RepeatedScalarFieldContainer[str]
    grey: bool
    def __init__(self, upload: _Optional[str] = ..., classes: _Optional[_Iterable[str]] = ..., grey: _Optional[bool] = ...) -> None: ...

class ClassAdapter(_message.Message):
    __slots__ = ("label", "folder", "images_seen", "final_loss", "held_out_losses", "image", "path")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    IMAGES_SEEN_FIELD_NUMBER: _ClassVar[int]
    FINAL_LOSS_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_LOSSES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    label: str
    folder: str
    images_seen: int
    final_loss: float
    held_out_losses: _containers.RepeatedCompositeFieldContainer[HeldOutLoss]
    image: str
    path: str
    def __init__(self, label: _Optional[str] = ..., folder: _Optional[str] = ..., images_seen: _Optional[int] = ..., final_loss: _Optional[float] = ..., held_out_losses: _Optional[_Iterable[_Union[HeldOutLoss, _Mapping]]] = ..., image: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class HeldOutLoss(_message.Message):
    __slots__ = ("images_seen", "loss")
    IMAGES_SEEN_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    images_seen: int
    loss: float
    def __init__(self, images_seen: _Optional[int] = ..., loss: _Optional[float] = ...) -> None: ...

class GetAdapterRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListAdaptersRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAdaptersResponse(_message.Message):
    __slots__ = ("adapters", "next_page_token", "unreachable")
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedCompositeFieldContainer[Adapter]
    next_page_token: str
    unreachable: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, adapters: _Optional[_Iterable[_Union[Adapter, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., unreachable: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteAdapterRequest(_message.Message):
    __slots__ = ("name", "force", "validate_only")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    name: str
    force: bool
    validate_only: bool
    def __init__(self, name: _Optional[str] = ..., force: _Optional[bool] = ..., validate_only: _Optional[bool] = ...) -> None: ...
