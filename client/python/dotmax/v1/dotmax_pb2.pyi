from dotmax.v1 import matrix_pb2 as _matrix_pb2
from dotmax._google_rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

COSINE: Metric
DESCRIPTOR: _descriptor.FileDescriptor
EACH_ONCE: SelfPairs
GLOBAL: Reduction
INNER_PRODUCT: Metric
METRIC_UNSPECIFIED: Metric
NOT_ITSELF: SelfPairs
PER_ROW: Reduction
REDUCTION_UNSPECIFIED: Reduction
SELF_PAIRS_UNSPECIFIED: SelfPairs
SQUARED_EUCLIDEAN: Metric

class BatchMaxInnerProductRequest(_message.Message):
    __slots__ = ["metric", "pairs"]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    metric: Metric
    pairs: _containers.RepeatedCompositeFieldContainer[MatrixPair]
    def __init__(self, pairs: _Optional[_Iterable[_Union[MatrixPair, _Mapping]]] = ..., metric: _Optional[_Union[Metric, str]] = ...) -> None: ...

class BatchMaxInnerProductResponse(_message.Message):
    __slots__ = ["best", "ids", "pairs", "query_rows", "scores", "stats"]
    BEST_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    QUERY_ROWS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    best: BestOfPairs
    ids: _containers.RepeatedScalarFieldContainer[int]
    pairs: _containers.RepeatedScalarFieldContainer[int]
    query_rows: _containers.RepeatedScalarFieldContainer[int]
    scores: _containers.RepeatedScalarFieldContainer[float]
    stats: SearchStats
    def __init__(self, pairs: _Optional[_Iterable[int]] = ..., query_rows: _Optional[_Iterable[int]] = ..., ids: _Optional[_Iterable[int]] = ..., scores: _Optional[_Iterable[float]] = ..., best: _Optional[_Union[BestOfPairs, _Mapping]] = ..., stats: _Optional[_Union[SearchStats, _Mapping]] = ...) -> None: ...

class Best(_message.Message):
    __slots__ = ["id", "query_row", "score"]
    ID_FIELD_NUMBER: _ClassVar[int]
    QUERY_ROW_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    id: int
    query_row: int
    score: float
    def __init__(self, query_row: _Optional[int] = ..., id: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...

class BestOfPairs(_message.Message):
    __slots__ = ["id", "pair", "query_row", "score"]
    ID_FIELD_NUMBER: _ClassVar[int]
    PAIR_FIELD_NUMBER: _ClassVar[int]
    QUERY_ROW_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    id: int
    pair: int
    query_row: int
    score: float
    def __init__(self, pair: _Optional[int] = ..., query_row: _Optional[int] = ..., id: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...

class Exclusions(_message.Message):
    __slots__ = ["ids", "row_splits"]
    IDS_FIELD_NUMBER: _ClassVar[int]
    ROW_SPLITS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    row_splits: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, row_splits: _Optional[_Iterable[int]] = ..., ids: _Optional[_Iterable[int]] = ...) -> None: ...

class MatrixPair(_message.Message):
    __slots__ = ["base", "queries"]
    BASE_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    base: _matrix_pb2.Matrix
    queries: _matrix_pb2.Matrix
    def __init__(self, queries: _Optional[_Union[_matrix_pb2.Matrix, _Mapping]] = ..., base: _Optional[_Union[_matrix_pb2.Matrix, _Mapping]] = ...) -> None: ...

class MaxInnerProductRequest(_message.Message):
    __slots__ = ["base", "collection", "count_only", "exclude", "max_score", "metric", "min_score", "queries", "reduction", "top_k", "version"]
    BASE_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    COUNT_ONLY_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    MAX_SCORE_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    base: _matrix_pb2.Matrix
    collection: str
    count_only: bool
    exclude: Exclusions
    max_score: float
    metric: Metric
    min_score: float
    queries: _matrix_pb2.Matrix
    reduction: Reduction
    top_k: int
    version: int
    def __init__(self, collection: _Optional[str] = ..., queries: _Optional[_Union[_matrix_pb2.Matrix, _Mapping]] = ..., top_k: _Optional[int] = ..., reduction: _Optional[_Union[Reduction, str]] = ..., metric: _Optional[_Union[Metric, str]] = ..., min_score: _Optional[float] = ..., max_score: _Optional[float] = ..., count_only: bool = ..., exclude: _Optional[_Union[Exclusions, _Mapping]] = ..., base: _Optional[_Union[_matrix_pb2.Matrix, _Mapping]] = ..., version: _Optional[int] = ...) -> None: ...

class MaxInnerProductStreamRequest(_message.Message):
    __slots__ = ["base", "queries", "start"]
    BASE_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    base: _matrix_pb2.Matrix
    queries: _matrix_pb2.Matrix
    start: MaxInnerProductRequest
    def __init__(self, start: _Optional[_Union[MaxInnerProductRequest, _Mapping]] = ..., queries: _Optional[_Union[_matrix_pb2.Matrix, _Mapping]] = ..., base: _Optional[_Union[_matrix_pb2.Matrix, _Mapping]] = ...) -> None: ...

class RowRange(_message.Message):
    __slots__ = ["collection", "first", "rows"]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    collection: str
    first: int
    rows: int
    def __init__(self, collection: _Optional[str] = ..., first: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ["collection", "count_only", "exclude", "max_score", "metric", "min_score", "queries", "reduction", "resident_queries", "self_pairs", "tag", "top_k", "version"]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    COUNT_ONLY_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    MAX_SCORE_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_QUERIES_FIELD_NUMBER: _ClassVar[int]
    SELF_PAIRS_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    collection: str
    count_only: bool
    exclude: Exclusions
    max_score: float
    metric: Metric
    min_score: float
    queries: _matrix_pb2.Matrix
    reduction: Reduction
    resident_queries: RowRange
    self_pairs: SelfPairs
    tag: int
    top_k: int
    version: int
    def __init__(self, collection: _Optional[str] = ..., queries: _Optional[_Union[_matrix_pb2.Matrix, _Mapping]] = ..., top_k: _Optional[int] = ..., reduction: _Optional[_Union[Reduction, str]] = ..., metric: _Optional[_Union[Metric, str]] = ..., min_score: _Optional[float] = ..., max_score: _Optional[float] = ..., count_only: bool = ..., exclude: _Optional[_Union[Exclusions, _Mapping]] = ..., resident_queries: _Optional[_Union[RowRange, _Mapping]] = ..., self_pairs: _Optional[_Union[SelfPairs, str]] = ..., version: _Optional[int] = ..., tag: _Optional[int] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ["best", "counts", "coverage", "ids", "query_rows", "row_splits", "scores", "stats", "truncated", "version"]
    BEST_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    QUERY_ROWS_FIELD_NUMBER: _ClassVar[int]
    ROW_SPLITS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    best: Best
    counts: _containers.RepeatedScalarFieldContainer[int]
    coverage: float
    ids: _containers.RepeatedScalarFieldContainer[int]
    query_rows: _containers.RepeatedScalarFieldContainer[int]
    row_splits: _containers.RepeatedScalarFieldContainer[int]
    scores: _containers.RepeatedScalarFieldContainer[float]
    stats: SearchStats
    truncated: _containers.RepeatedScalarFieldContainer[bool]
    version: int
    def __init__(self, row_splits: _Optional[_Iterable[int]] = ..., ids: _Optional[_Iterable[int]] = ..., scores: _Optional[_Iterable[float]] = ..., query_rows: _Optional[_Iterable[int]] = ..., best: _Optional[_Union[Best, _Mapping]] = ..., coverage: _Optional[float] = ..., stats: _Optional[_Union[SearchStats, _Mapping]] = ..., truncated: _Optional[_Iterable[bool]] = ..., counts: _Optional[_Iterable[int]] = ..., version: _Optional[int] = ...) -> None: ...

class SearchResult(_message.Message):
    __slots__ = ["response", "status", "tag"]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    response: SearchResponse
    status: _status_pb2.Status
    tag: int
    def __init__(self, tag: _Optional[int] = ..., response: _Optional[_Union[SearchResponse, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class SearchStats(_message.Message):
    __slots__ = ["compute_seconds", "pairs_checked", "pairs_rescored", "pairs_screened", "pairs_survived", "queue_seconds"]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PAIRS_CHECKED_FIELD_NUMBER: _ClassVar[int]
    PAIRS_RESCORED_FIELD_NUMBER: _ClassVar[int]
    PAIRS_SCREENED_FIELD_NUMBER: _ClassVar[int]
    PAIRS_SURVIVED_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    compute_seconds: float
    pairs_checked: int
    pairs_rescored: int
    pairs_screened: int
    pairs_survived: int
    queue_seconds: float
    def __init__(self, queue_seconds: _Optional[float] = ..., compute_seconds: _Optional[float] = ..., pairs_screened: _Optional[int] = ..., pairs_survived: _Optional[int] = ..., pairs_checked: _Optional[int] = ..., pairs_rescored: _Optional[int] = ...) -> None: ...

class Reduction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class Metric(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class SelfPairs(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
