from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetClusterRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Cluster(_message.Message):
    __slots__ = ("namespace", "nodes", "worker_groups", "warnings", "ray_problem")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    WORKER_GROUPS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    RAY_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    worker_groups: _containers.RepeatedCompositeFieldContainer[WorkerGroup]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    ray_problem: str
    def __init__(self, namespace: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., worker_groups: _Optional[_Iterable[_Union[WorkerGroup, _Mapping]]] = ..., warnings: _Optional[_Iterable[str]] = ..., ray_problem: _Optional[str] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("name", "gpu_product", "nvidia_gpus", "amd_gpus", "schedulable", "ready")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GPU_PRODUCT_FIELD_NUMBER: _ClassVar[int]
    NVIDIA_GPUS_FIELD_NUMBER: _ClassVar[int]
    AMD_GPUS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULABLE_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    name: str
    gpu_product: str
    nvidia_gpus: int
    amd_gpus: int
    schedulable: bool
    ready: bool
    def __init__(self, name: _Optional[str] = ..., gpu_product: _Optional[str] = ..., nvidia_gpus: _Optional[int] = ..., amd_gpus: _Optional[int] = ..., schedulable: _Optional[bool] = ..., ready: _Optional[bool] = ...) -> None: ...

class WorkerGroup(_message.Message):
    __slots__ = ("name", "min_workers", "max_workers", "desired_workers", "ready_workers", "gpus_per_worker", "gpu_product")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MIN_WORKERS_FIELD_NUMBER: _ClassVar[int]
    MAX_WORKERS_FIELD_NUMBER: _ClassVar[int]
    DESIRED_WORKERS_FIELD_NUMBER: _ClassVar[int]
    READY_WORKERS_FIELD_NUMBER: _ClassVar[int]
    GPUS_PER_WORKER_FIELD_NUMBER: _ClassVar[int]
    GPU_PRODUCT_FIELD_NUMBER: _ClassVar[int]
    name: str
    min_workers: int
    max_workers: int
    desired_workers: int
    ready_workers: int
    gpus_per_worker: int
    gpu_product: str
    def __init__(self, name: _Optional[str] = ..., min_workers: _Optional[int] = ..., max_workers: _Optional[int] = ..., desired_workers: _Optional[int] = ..., ready_workers: _Optional[int] = ..., gpus_per_worker: _Optional[int] = ..., gpu_product: _Optional[str] = ...) -> None: ...

class ScaleWorkerGroupRequest(_message.Message):
    __slots__ = ("worker_group", "min_workers", "max_workers", "validate_only")
    WORKER_GROUP_FIELD_NUMBER: _ClassVar[int]
    MIN_WORKERS_FIELD_NUMBER: _ClassVar[int]
    MAX_WORKERS_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    worker_group: str
    min_workers: int
    max_workers: int
    validate_only: bool
    def __init__(self, worker_group: _Optional[str] = ..., min_workers: _Optional[int] = ..., max_workers: _Optional[int] = ..., validate_only: _Optional[bool] = ...) -> None: ...
