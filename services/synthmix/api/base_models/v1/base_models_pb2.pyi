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

class CreateBaseModelRequest(_message.Message):
    __slots__ = ("base_model", "replace_display_name", "validate_only")
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    REPLACE_DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    base_model: BaseModel
    replace_display_name: bool
    validate_only: bool
    def __init__(self, base_model: _Optional[_Union[BaseModel, _Mapping]] = ..., replace_display_name: _Optional[bool] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class BaseModel(_message.Message):
    __slots__ = ("name", "display_name", "display_names", "files", "source", "image_size", "size_bytes", "create_time", "requested_by", "requested_by_me")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAMES_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BY_ME_FIELD_NUMBER: _ClassVar[int]
    name: str
    display_name: str
    display_names: _containers.RepeatedScalarFieldContainer[str]
    files: _containers.RepeatedCompositeFieldContainer[BaseModelFile]
    source: str
    image_size: int
    size_bytes: int
    create_time: _timestamp_pb2.Timestamp
    requested_by: _containers.RepeatedScalarFieldContainer[str]
    requested_by_me: bool
    def __init__(self, name: _Optional[str] = ..., display_name: _Optional[str] = ..., display_names: _Optional[_Iterable[str]] = ..., files: _Optional[_Iterable[_Union[BaseModelFile, _Mapping]]] = ..., source: _Optional[str] = ..., image_size: _Optional[int] = ..., size_bytes: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., requested_by: _Optional[_Iterable[str]] = ..., requested_by_me: _Optional[bool] = ...) -> None: ...

class BaseModelFile(_message.Message):
    __slots__ = ("path", "sha256", "size_bytes", "header_upload")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HEADER_UPLOAD_FIELD_NUMBER: _ClassVar[int]
    path: str
    sha256: str
    size_bytes: int
    header_upload: str
    def __init__(self, path: _Optional[str] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., header_upload: _Optional[str] = ...) -> None: ...

class BaseModelPlan(_message.Message):
    __slots__ = ("target", "done", "missing_uploads", "checked")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    MISSING_UPLOADS_FIELD_NUMBER: _ClassVar[int]
    CHECKED_FIELD_NUMBER: _ClassVar[int]
    target: str
    done: bool
    missing_uploads: _containers.RepeatedScalarFieldContainer[str]
    checked: bool
    def __init__(self, target: _Optional[str] = ..., done: _Optional[bool] = ..., missing_uploads: _Optional[_Iterable[str]] = ..., checked: _Optional[bool] = ...) -> None: ...

class GetBaseModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ListBaseModelsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListBaseModelsResponse(_message.Message):
    __slots__ = ("base_models", "next_page_token", "unreachable")
    BASE_MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    base_models: _containers.RepeatedCompositeFieldContainer[BaseModel]
    next_page_token: str
    unreachable: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, base_models: _Optional[_Iterable[_Union[BaseModel, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., unreachable: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteBaseModelRequest(_message.Message):
    __slots__ = ("name", "force", "validate_only")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    name: str
    force: bool
    validate_only: bool
    def __init__(self, name: _Optional[str] = ..., force: _Optional[bool] = ..., validate_only: _Optional[bool] = ...) -> None: ...
