from dotmax.v1 import matrix_pb2 as _matrix_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Collection(_message.Message):
    __slots__ = ["dim", "dtype", "estimates", "file_changed", "name", "resident_bytes", "rows", "screen", "version"]
    DIM_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    ESTIMATES_FIELD_NUMBER: _ClassVar[int]
    FILE_CHANGED_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SCREEN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    dim: int
    dtype: _matrix_pb2.DType
    estimates: _containers.RepeatedCompositeFieldContainer[ScreenEstimate]
    file_changed: bool
    name: str
    resident_bytes: int
    rows: int
    screen: str
    version: int
    def __init__(self, name: _Optional[str] = ..., rows: _Optional[int] = ..., dim: _Optional[int] = ..., dtype: _Optional[_Union[_matrix_pb2.DType, str]] = ..., resident_bytes: _Optional[int] = ..., screen: _Optional[str] = ..., estimates: _Optional[_Iterable[_Union[ScreenEstimate, _Mapping]]] = ..., version: _Optional[int] = ..., file_changed: bool = ...) -> None: ...

class DropCollectionRequest(_message.Message):
    __slots__ = ["name"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DropCollectionResponse(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class Limits(_message.Message):
    __slots__ = ["max_message_bytes", "max_top_k"]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_TOP_K_FIELD_NUMBER: _ClassVar[int]
    max_message_bytes: int
    max_top_k: int
    def __init__(self, max_top_k: _Optional[int] = ..., max_message_bytes: _Optional[int] = ...) -> None: ...

class ListCollectionsRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class ListCollectionsResponse(_message.Message):
    __slots__ = ["collections", "limits"]
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    collections: _containers.RepeatedCompositeFieldContainer[Collection]
    limits: Limits
    def __init__(self, collections: _Optional[_Iterable[_Union[Collection, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class LoadCollectionRequest(_message.Message):
    __slots__ = ["name", "path"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    name: str
    path: str
    def __init__(self, name: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class LoadProgress(_message.Message):
    __slots__ = ["bytes_done", "bytes_total", "collection", "stage"]
    class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = []
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    PREPARING: LoadProgress.Stage
    PUBLISHED: LoadProgress.Stage
    READING: LoadProgress.Stage
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STAGE_UNSPECIFIED: LoadProgress.Stage
    WAITING: LoadProgress.Stage
    bytes_done: int
    bytes_total: int
    collection: Collection
    stage: LoadProgress.Stage
    def __init__(self, stage: _Optional[_Union[LoadProgress.Stage, str]] = ..., bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ..., collection: _Optional[_Union[Collection, _Mapping]] = ...) -> None: ...

class ReloadCollectionRequest(_message.Message):
    __slots__ = ["name"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ScreenEstimate(_message.Message):
    __slots__ = ["batch_query_seconds", "screen", "single_query_seconds"]
    BATCH_QUERY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SCREEN_FIELD_NUMBER: _ClassVar[int]
    SINGLE_QUERY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    batch_query_seconds: float
    screen: str
    single_query_seconds: float
    def __init__(self, screen: _Optional[str] = ..., batch_query_seconds: _Optional[float] = ..., single_query_seconds: _Optional[float] = ...) -> None: ...

class SwapCollectionsRequest(_message.Message):
    __slots__ = ["a", "b"]
    A_FIELD_NUMBER: _ClassVar[int]
    B_FIELD_NUMBER: _ClassVar[int]
    a: str
    b: str
    def __init__(self, a: _Optional[str] = ..., b: _Optional[str] = ...) -> None: ...

class SwapCollectionsResponse(_message.Message):
    __slots__ = ["a", "b"]
    A_FIELD_NUMBER: _ClassVar[int]
    B_FIELD_NUMBER: _ClassVar[int]
    a: Collection
    b: Collection
    def __init__(self, a: _Optional[_Union[Collection, _Mapping]] = ..., b: _Optional[_Union[Collection, _Mapping]] = ...) -> None: ...
