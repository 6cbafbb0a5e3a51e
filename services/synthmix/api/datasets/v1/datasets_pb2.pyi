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

class GroupRule(_message.Message):
    __slots__ = ("pattern", "column", "none")
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    NONE_FIELD_NUMBER: _ClassVar[int]
    pattern: str
    column: str
    none: bool
    def __init__(self, pattern: _Optional[str] = ..., column: _Optional[str] = ..., none: _Optional[bool] = ...) -> None: ...

class PixelRule(_message.Message):
    __slots__ = ("channels", "plane", "white_level")
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    PLANE_FIELD_NUMBER: _ClassVar[int]
    WHITE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    channels: _containers.RepeatedScalarFieldContainer[int]
    plane: int
    white_level: int
    def __init__(self, channels: _Optional[_Iterable[int]] = ..., plane: _Optional[int] = ..., white_level: _Optional[int] = ...) -> None: ...

class CreateDatasetRequest(_message.Message):
    __slots__ = ("dataset", "upload", "replace_display_name", "left_out", "accept_layout", "label_column", "path_column")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    REPLACE_DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_LAYOUT_FIELD_NUMBER: _ClassVar[int]
    LABEL_COLUMN_FIELD_NUMBER: _ClassVar[int]
    PATH_COLUMN_FIELD_NUMBER: _ClassVar[int]
    dataset: Dataset
    upload: str
    replace_display_name: bool
    left_out: _containers.RepeatedCompositeFieldContainer[LeftOut]
    accept_layout: bool
    label_column: str
    path_column: str
    def __init__(self, dataset: _Optional[_Union[Dataset, _Mapping]] = ..., upload: _Optional[str] = ..., replace_display_name: _Optional[bool] = ..., left_out: _Optional[_Iterable[_Union[LeftOut, _Mapping]]] = ..., accept_layout: _Optional[bool] = ..., label_column: _Optional[str] = ..., path_column: _Optional[str] = ...) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("name", "display_name", "group_rule", "classes", "simulated", "image_count", "group_count", "class_counts", "warnings", "create_time", "payloads", "pixels", "white_levels", "caption_columns", "left_out", "display_names", "requested_by", "requested_by_me")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    GROUP_RULE_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    IMAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    GROUP_COUNT_FIELD_NUMBER: _ClassVar[int]
    CLASS_COUNTS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    WHITE_LEVELS_FIELD_NUMBER: _ClassVar[int]
    CAPTION_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAMES_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_ME_FIELD_NUMBER: _ClassVar[int]
    name: str
    display_name: str
    group_rule: GroupRule
    classes: _containers.RepeatedScalarFieldContainer[str]
    simulated: bool
    image_count: int
    group_count: int
    class_counts: _containers.RepeatedCompositeFieldContainer[ClassCount]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    create_time: _timestamp_pb2.Timestamp
    payloads: _containers.RepeatedCompositeFieldContainer[_artifacts_pb2.Payload]
    pixels: PixelRule
    white_levels: _containers.RepeatedScalarFieldContainer[int]
    caption_columns: _containers.RepeatedScalarFieldContainer[str]
    left_out: _containers.RepeatedCompositeFieldContainer[LeftOut]
    display_names: _containers.RepeatedScalarFieldContainer[str]
    requested_by: _containers.RepeatedScalarFieldContainer[str]
    requested_by_me: bool
    def __init__(self, name: _Optional[str] = ..., display_name: _Optional[str] = ..., group_rule: _Optional[_Union[GroupRule, _Mapping]] = ..., classes: _Optional[_Iterable[str]] = ..., simulated: _Optional[bool] = ..., image_count: _Optional[int] = ..., group_count: _Optional[int] = ..., class_counts: _Optional[_Iterable[_Union[ClassCount, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., payloads: _Optional[_Iterable[_Union[_artifacts_pb2.Payload, _Mapping]]] = ..., pixels: _Optional[_Union[PixelRule, _Mapping]] = ..., white_levels: _Optional[_Iterable[int]] = ..., caption_columns: _Optional[_Iterable[str]] = ..., left_out: _Optional[_Iterable[_Union[LeftOut, _Mapping]]] = ..., display_names: _Optional[_Iterable[str]] = ..., requested_by: _Optional[_Iterable[str]] = ..., requested_by_me: _Optional[bool] = ...) -> None: ...

class LeftOut(_message.Message):
    __slots__ = ("folder", "reason", "count", "examples", "description")
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    folder: str
    reason: str
    count: int
    examples: _containers.RepeatedScalarFieldContainer[str]
    description: str
    def __init__(self, folder: _Optional[str] = ..., reason: _Optional[str] = ..., count: _Optional[int] = ..., examples: _Optional[_Iterable[str]] = ..., description: _Optional[str] = ...) -> None: ...

class ClassCount(_message.Message):
    __slots__ = ("label", "images", "groups")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    label: str
    images: int
    groups: int
    def __init__(self, label: _Optional[str] = ..., images: _Optional[int] = ..., groups: _Optional[int] = ...) -> None: ...

class GetDatasetRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListDatasetsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDatasetsResponse(_message.Message):
    __slots__ = ("datasets", "next_page_token", "unreachable")
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    datasets: _containers.RepeatedCompositeFieldContainer[Dataset]
    next_page_token: str
    unreachable: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, datasets: _Optional[_Iterable[_Union[Dataset, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., unreachable: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateSplitRequest(_message.Message):
    __slots__ = ("split",)
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    split: Split
    def __init__(self, split: _Optional[_Union[Split, _Mapping]] = ...) -> None: ...

class SplitSettings(_message.Message):
    __slots__ = ("test", "validation", "seed")
    TEST_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    test: float
    validation: float
    seed: int
    def __init__(self, test: _Optional[float] = ..., validation: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class Split(_message.Message):
    __slots__ = ("name", "dataset", "settings", "part_counts", "warnings", "payloads")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    PART_COUNTS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    name: str
    dataset: str
    settings: SplitSettings
    part_counts: _containers.RepeatedCompositeFieldContainer[PartCount]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    payloads: _containers.RepeatedCompositeFieldContainer[_artifacts_pb2.Payload]
    def __init__(self, name: _Optional[str] = ..., dataset: _Optional[str] = ..., settings: _Optional[_Union[SplitSettings, _Mapping]] = ..., part_counts: _Optional[_Iterable[_Union[PartCount, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ..., payloads: _Optional[_Iterable[_Union[_artifacts_pb2.Payload, _Mapping]]] = ...) -> None: ...

class PartCount(_message.Message):
    __slots__ = ("part", "digest", "class_counts")
    PART_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CLASS_COUNTS_FIELD_NUMBER: _ClassVar[int]
    part: str
    digest: str
    class_counts: _containers.RepeatedCompositeFieldContainer[ClassCount]
    def __init__(self, part: _Optional[str] = ..., digest: _Optional[str] = ..., class_counts: _Optional[_Iterable[_Union[ClassCount, _Mapping]]] = ...) -> None: ...

class GetSplitRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteDatasetRequest(_message.Message):
    __slots__ = ("name", "force", "validate_only")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    name: str
    force: bool
    validate_only: bool
    def __init__(self, name: _Optional[str] = ..., force: _Optional[bool] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class DeleteDatasetImagesRequest(_message.Message):
    __slots__ = ("name", "images", "groups", "force", "validate_only", "skip_grace_period")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    SKIP_GRACE_PERIOD_FIELD_NUMBER: _ClassVar[int]
    name: str
    images: _containers.RepeatedScalarFieldContainer[str]
    groups: _containers.RepeatedScalarFieldContainer[str]
    force: bool
    validate_only: bool
    skip_grace_period: bool
    def __init__(self, name: _Optional[str] = ..., images: _Optional[_Iterable[str]] = ..., groups: _Optional[_Iterable[str]] = ..., force: _Optional[bool] = ..., validate_only: _Optional[bool] = ..., skip_grace_period: _Optional[bool] = ...) -> None: ...
