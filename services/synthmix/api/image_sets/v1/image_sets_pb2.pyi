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

class CreateImageSetRequest(_message.Message):
    __slots__ = ("image_set", "validate_only")
    IMAGE_SET_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    image_set: ImageSet
    validate_only: bool
    def __init__(self, image_set: _Optional[_Union[ImageSet, _Mapping]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class SynthesisSettings(_message.Message):
    __slots__ = ("preset", "variant", "prompt", "steps", "guidance_scale", "per_class", "seed", "precision", "fused_adapters", "fusion_weight", "adapter_scale", "more_prompts", "negative_prompt", "guidance_least_noise", "guidance_most_noise", "guidance_rescale", "strength", "more_strengths", "largest_strength", "inversion_steps", "prompt_switch", "latent_guidance_radius", "latent_guidance_step", "images_per_source", "source", "sampler", "timestep_spacing", "sigma_spacing", "solver_order", "solver_algorithm", "eta", "adapter_weights", "class_images", "balance", "strengths_by_images")
    class ClassImagesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class StrengthsByImagesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    PRESET_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_SCALE_FIELD_NUMBER: _ClassVar[int]
    PER_CLASS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    FUSED_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    FUSION_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_SCALE_FIELD_NUMBER: _ClassVar[int]
    MORE_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_PROMPT_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_LEAST_NOISE_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_MOST_NOISE_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_RESCALE_FIELD_NUMBER: _ClassVar[int]
    STRENGTH_FIELD_NUMBER: _ClassVar[int]
    MORE_STRENGTHS_FIELD_NUMBER: _ClassVar[int]
    LARGEST_STRENGTH_FIELD_NUMBER: _ClassVar[int]
    INVERSION_STEPS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SWITCH_FIELD_NUMBER: _ClassVar[int]
    LATENT_GUIDANCE_RADIUS_FIELD_NUMBER: _ClassVar[int]
    LATENT_GUIDANCE_STEP_FIELD_NUMBER: _ClassVar[int]
    IMAGES_PER_SOURCE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SAMPLER_FIELD_NUMBER: _ClassVar[int]
    TIMESTEP_SPACING_FIELD_NUMBER: _ClassVar[int]
    SIGMA_SPACING_FIELD_NUMBER: _ClassVar[int]
    SOLVER_ORDER_FIELD_NUMBER: _ClassVar[int]
    SOLVER_ALGORITHM_FIELD_NUMBER: _ClassVar[int]
    ETA_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    CLASS_IMAGES_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    STRENGTHS_BY_IMAGES_FIELD_NUMBER: _ClassVar[int]
    preset: str
    variant: str
    prompt: str
    steps: int
    guidance_scale: float
    per_class: int
    seed: int
    precision: str
    fused_adapters: int
    fusion_weight: float
    adapter_scale: float
    more_prompts: _containers.RepeatedScalarFieldContainer[str]
    negative_prompt: str
    guidance_least_noise: float
    guidance_most_noise: float
    guidance_rescale: float
    strength: float
    more_strengths: _containers.RepeatedScalarFieldContainer[float]
    largest_strength: float
    inversion_steps: int
    prompt_switch: float
    latent_guidance_radius: float
    latent_guidance_step: float
    images_per_source: int
    source: str
    sampler: str
    timestep_spacing: str
    sigma_spacing: str
    solver_order: int
    solver_algorithm: str
    eta: float
    adapter_weights: _containers.RepeatedScalarFieldContainer[float]
    class_images: _containers.ScalarMap[str, int]
    balance: bool
    strengths_by_images: _containers.ScalarMap[int, float]
    def __init__(self, preset: _Optional[str] = ..., variant: _Optional[str] = ..., prompt: _Optional[str] = ..., steps: _Optional[int] = ..., guidance_scale: _Optional[float] = ..., per_class: _Optional[int] = ..., seed: _Optional[int] = ..., precision: _Optional[str] = ..., fused_adapters: _Optional[int] = ..., fusion_weight: _Optional[float] = ..., adapter_scale: _Optional[float] = ..., more_prompts: _Optional[_Iterable[str]] = ..., negative_prompt: _Optional[str] = ..., guidance_least_noise: _Optional[float] = ..., guidance_most_noise: _Optional[float] = ..., guidance_rescale: _Optional[float] = ..., strength: _Optional[float] = ..., more_strengths: _Optional[_Iterable[float]] = ..., largest_strength: _Optional[float] = ..., inversion_steps: _Optional[int] = ..., prompt_switch: _Optional[float] = ..., latent_guidance_radius: _Optional[float] = ..., latent_guidance_step: _Optional[float] = ..., images_per_source: _Optional[int] = ..., source: _Optional[str] = ..., sampler: _Optional[str] = ..., timestep_spacing: _Optional[str] = ..., sigma_spacing: _Optional[str] = ..., solver_order: _Optional[int] = ..., solver_algorithm: _Optional[str] = ..., eta: _Optional[float] = ..., adapter_weights: _Optional[_Iterable[float]] = ..., class_images: _Optional[_Mapping[str, int]] = ..., balance: _Optional[bool] = ..., strengths_by_images: _Optional[_Mapping[int, float]] = ...) -> None: ...

class SelectionSettings(_message.Message):
    __slots__ = ("preset", "variant", "class_consistency", "top_k", "above_chance", "centroid", "drop_lowest", "near_duplicates", "memorised", "keep", "oversample")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    CLASS_CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    ABOVE_CHANCE_FIELD_NUMBER: _ClassVar[int]
    CENTROID_FIELD_NUMBER: _ClassVar[int]
    DROP_LOWEST_FIELD_NUMBER: _ClassVar[int]
    NEAR_DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    MEMORISED_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    OVERSAMPLE_FIELD_NUMBER: _ClassVar[int]
    preset: str
    variant: str
    class_consistency: float
    top_k: int
    above_chance: bool
    centroid: bool
    drop_lowest: float
    near_duplicates: bool
    memorised: bool
    keep: str
    oversample: float
    def __init__(self, preset: _Optional[str] = ..., variant: _Optional[str] = ..., class_consistency: _Optional[float] = ..., top_k: _Optional[int] = ..., above_chance: _Optional[bool] = ..., centroid: _Optional[bool] = ..., drop_lowest: _Optional[float] = ..., near_duplicates: _Optional[bool] = ..., memorised: _Optional[bool] = ..., keep: _Optional[str] = ..., oversample: _Optional[float] = ...) -> None: ...

class Rejections(_message.Message):
    __slots__ = ("label", "rule", "images")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    label: str
    rule: str
    images: int
    def __init__(self, label: _Optional[str] = ..., rule: _Optional[str] = ..., images: _Optional[int] = ...) -> None: ...

class Selected(_message.Message):
    __slots__ = ("candidates", "kept", "missing", "rejections", "feature_network")
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    FEATURE_NETWORK_FIELD_NUMBER: _ClassVar[int]
    candidates: int
    kept: _containers.RepeatedCompositeFieldContainer[ClassImages]
    missing: _containers.RepeatedCompositeFieldContainer[ClassImages]
    rejections: _containers.RepeatedCompositeFieldContainer[Rejections]
    feature_network: str
    def __init__(self, candidates: _Optional[int] = ..., kept: _Optional[_Iterable[_Union[ClassImages, _Mapping]]] = ..., missing: _Optional[_Iterable[_Union[ClassImages, _Mapping]]] = ..., rejections: _Optional[_Iterable[_Union[Rejections, _Mapping]]] = ..., feature_network: _Optional[str] = ...) -> None: ...

class ImageSet(_message.Message):
    __slots__ = ("name", "adapter", "settings", "class_images", "image_count", "create_time", "seconds", "gpu_seconds", "payloads", "requested_by", "requested_by_me", "imported_adapter", "train_split", "base_model", "selection", "candidates", "selected", "more_adapters", "imported")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    CLASS_IMAGES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    GPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_ME_FIELD_NUMBER: _ClassVar[int]
    IMPORTED_ADAPTER_FIELD_NUMBER: _ClassVar[int]
    TRAIN_SPLIT_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    SELECTED_FIELD_NUMBER: _ClassVar[int]
    MORE_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    IMPORTED_FIELD_NUMBER: _ClassVar[int]
    name: str
    adapter: str
    settings: SynthesisSettings
    class_images: _containers.RepeatedCompositeFieldContainer[ClassImages]
    image_count: int
    create_time: _timestamp_pb2.Timestamp
    seconds: float
    gpu_seconds: float
    payloads: _containers.RepeatedCompositeFieldContainer[_artifacts_pb2.Payload]
    requested_by: _containers.RepeatedScalarFieldContainer[str]
    requested_by_me: bool
    imported_adapter: bool
    train_split: str
    base_model: str
    selection: SelectionSettings
    candidates: str
    selected: Selected
    more_adapters: _containers.RepeatedScalarFieldContainer[str]
    imported: ImportedImages
    def __init__(self, name: _Optional[str] = ..., adapter: _Optional[str] = ..., settings: _Optional[_Union[SynthesisSettings, _Mapping]] = ..., class_images: _Optional[_Iterable[_Union[ClassImages, _Mapping]]] = ..., image_count: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., seconds: _Optional[float] = ..., gpu_seconds: _Optional[float] = ..., payloads: _Optional[_Iterable[_Union[_artifacts_pb2.Payload, _Mapping]]] = ..., requested_by: _Optional[_Iterable[str]] = ..., requested_by_me: _Optional[bool] = ..., imported_adapter: _Optional[bool] = ..., train_split: _Optional[str] = ..., base_model: _Optional[str] = ..., selection: _Optional[_Union[SelectionSettings, _Mapping]] = ..., candidates: _Optional[str] = ..., selected: _Optional[_Union[Selected, _Mapping]] = ..., more_adapters: _Optional[_Iterable[str]] = ..., imported: _Optional[_Union[ImportedImages, _Mapping]] = ...) -> None: ...

class ImportedImages(_message.Message):
    __slots__ = ("upload", "origin", "seen", "image_size", "accept_layout")
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_LAYOUT_FIELD_NUMBER: _ClassVar[int]
    upload: str
    origin: str
    seen: SeenImages
    image_size: int
    accept_layout: bool
    def __init__(self, upload: _Optional[str] = ..., origin: _Optional[str] = ..., seen: _Optional[_Union[SeenImages, _Mapping]] = ..., image_size: _Optional[int] = ..., accept_layout: _Optional[bool] = ...) -> None: ...

class SeenImages(_message.Message):
    __slots__ = ("none", "all_of", "list_upload", "image_count")
    NONE_FIELD_NUMBER: _ClassVar[int]
    ALL_OF_FIELD_NUMBER: _ClassVar[int]
    LIST_UPLOAD_FIELD_NUMBER: _ClassVar[int]
    IMAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    none: bool
    all_of: _containers.RepeatedScalarFieldContainer[str]
    list_upload: str
    image_count: int
    def __init__(self, none: _Optional[bool] = ..., all_of: _Optional[_Iterable[str]] = ..., list_upload: _Optional[str] = ..., image_count: _Optional[int] = ...) -> None: ...

class ClassImages(_message.Message):
    __slots__ = ("label", "images")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    label: str
    images: int
    def __init__(self, label: _Optional[str] = ..., images: _Optional[int] = ...) -> None: ...

class GetImageSetRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListImageSetsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListImageSetsResponse(_message.Message):
    __slots__ = ("image_sets", "next_page_token", "unreachable")
    IMAGE_SETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    image_sets: _containers.RepeatedCompositeFieldContainer[ImageSet]
    next_page_token: str
    unreachable: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, image_sets: _Optional[_Iterable[_Union[ImageSet, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., unreachable: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteImageSetRequest(_message.Message):
    __slots__ = ("name", "force", "validate_only")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    name: str
    force: bool
    validate_only: bool
    def __init__(self, name: _Optional[str] = ..., force: _Optional[bool] = ..., validate_only: _Optional[bool] = ...) -> None: ...
