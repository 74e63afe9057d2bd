"""What is asked of a server, and how its replies become results, without any input or output.

An operation is a generator: it yields calls and is sent their responses, so that the blocking and the asyncio client
run the same ones.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Callable, Generator, Iterator, List, Mapping, Optional, Sequence, Tuple, TypeVar

import numpy
import numpy.typing
from numpy.typing import NDArray

from dotmax import _arrays
from dotmax._arrays import Message, WireRows
from dotmax.results import Best, Collection, PairsResult, ScreenTiming, SearchResult, Server, Stats
from dotmax.v1 import collections_pb2, dotmax_pb2, matrix_pb2

T = TypeVar("T")
Progress = Callable[[int, int], None]

_METRICS = {
    "inner_product": dotmax_pb2.INNER_PRODUCT,
    "cosine": dotmax_pb2.COSINE,
    "squared_euclidean": dotmax_pb2.SQUARED_EUCLIDEAN,
}
_REDUCTIONS = {"per_row": dotmax_pb2.PER_ROW, "global": dotmax_pb2.GLOBAL}
_SELF_PAIRS = {
    "all": dotmax_pb2.SELF_PAIRS_UNSPECIFIED,
    "not_itself": dotmax_pb2.NOT_ITSELF,
    "each_once": dotmax_pb2.EACH_ONCE,
}
_ENVELOPE_BYTES = 4096  # what a request holds besides rows and exclusions, generously
_VARINT_BYTES = 10  # at most
_HIT_BYTES = 24  # of a reply, at most: id, score, query row
_RANGE_HITS = 10_000  # that a query row gets room for when all are wanted: the default of the server's limit
_BLOCK_BYTES = 4 << 20  # cheap to send each, and the first ones are searched while others are sent
_PAIR_BYTES = 64  # what a pair takes beside its rows

# Servers that one name stands for take turns. UNAVAILABLE means that nothing was done: a connection that failed, a server
# that is draining.
_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)


def channel_options(max_message_bytes: int, server_name: Optional[str]) -> List[Tuple[str, Any]]:
    if not _ENVELOPE_BYTES < max_message_bytes < 1 << 31:
        raise ValueError(f"max_message_bytes is {max_message_bytes}; it must be from {_ENVELOPE_BYTES + 1} to 2**31 - 1")
    options: List[Tuple[str, Any]] = [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # A request that gRPC does not keep whole is never tried again.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
    ]
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return options


@dataclass(frozen=True)
class Method:
    path: str
    response: Any  # the message type
    client_streams: bool = False
    server_streams: bool = False


_SERVICE = "/dotmax.v1.Dotmax/"
_COLLECTIONS = "/dotmax.v1.Collections/"
SEARCH = Method(_SERVICE + "Search", dotmax_pb2.SearchResponse)
SEARCH_STREAM = Method(_SERVICE + "SearchStream", dotmax_pb2.SearchResult, True, True)
MAX = Method(_SERVICE + "MaxInnerProduct", dotmax_pb2.SearchResponse)
MAX_STREAM = Method(_SERVICE + "MaxInnerProductStream", dotmax_pb2.SearchResponse, True)
PAIRS_STREAM = Method(
    _SERVICE + "BatchMaxInnerProductStream", dotmax_pb2.BatchMaxInnerProductResponse, True, True
)
LIST = Method(_COLLECTIONS + "ListCollections", collections_pb2.ListCollectionsResponse)
LOAD = Method(_COLLECTIONS + "LoadCollection", collections_pb2.LoadProgress, server_streams=True)
RELOAD = Method(_COLLECTIONS + "ReloadCollection", collections_pb2.LoadProgress, server_streams=True)
SWAP = Method(_COLLECTIONS + "SwapCollections", collections_pb2.SwapCollectionsResponse)
DROP = Method(_COLLECTIONS + "DropCollection", collections_pb2.DropCollectionResponse)


class _Health:
    @staticmethod
    def FromString(reply: bytes) -> bool:
        """Whether a grpc.health.v1.HealthCheckResponse says SERVING: field 1 is 1."""
        return reply == b"\x08\x01"


HEALTH = Method("/grpc.health.v1.Health/Check", _Health)


@dataclass(frozen=True)
class Call:
    """One call. `requests` makes its request, or their iterator, anew for each attempt.

    Responses of a method that streams go to `take`, one by one, and the operation is sent None.
    """

    method: Method
    requests: Callable[[], Any]
    take: Optional[Callable[[Any], None]] = None


Operation = Generator[Call, Any, T]


def _choice(name: str, value: str, choices: Mapping[str, Any]) -> Any:
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is none of {', '.join(map(repr, choices))}")
    return choices[value]


class Exclusions:
    """Ids that are no hits, by query row."""

    def __init__(self, by_row: Optional[Sequence[numpy.typing.ArrayLike]]):
        rows = [numpy.asarray(ids) for ids in by_row or ()]
        for number, ids in enumerate(rows):
            if ids.ndim != 1 or (ids.size and (ids.dtype.kind not in "iu" or int(ids.min()) < 0)):
                raise ValueError(f"exclude[{number}]: ids are needed, integers from 0 on")
        self.given = by_row is not None
        self.splits: NDArray[numpy.int64] = numpy.cumsum([0, *map(len, rows)])
        self.ids: NDArray[numpy.uint64] = numpy.concatenate([numpy.empty(0, "u8"), *(r.astype("u8") for r in rows)])

    def check(self, query_rows: int) -> None:
        if self.given and len(self.splits) != query_rows + 1:
            raise ValueError(f"exclude: {len(self.splits) - 1} lists of ids for {query_rows} query rows")


@dataclass(frozen=True)
class Question:
    """What is asked about query rows, but for the matrices."""

    top_k: int
    reduction: int
    metric: int
    min_score: Optional[float]
    max_score: Optional[float]
    count_only: bool
    exclude: Exclusions
    collection: str
    version: Optional[int]

    @property
    def is_global(self) -> bool:
        return self.reduction == dotmax_pb2.GLOBAL

    @property
    def wants_all(self) -> bool:
        has_range = self.min_score is not None or self.max_score is not None
        return has_range and self.top_k == 0 and not self.count_only

    def better(self, a: Any, b: Any) -> Any:
        return a < b if self.metric == dotmax_pb2.SQUARED_EUCLIDEAN else a > b

    def rows_of_part(self, first: int, total: int, row_bytes: int, budget: int) -> int:
        """How many of the query rows [first, total) go into one message, and their hits into one reply."""
        hits = 0 if self.count_only else _RANGE_HITS if self.wants_all else max(self.top_k, 1)
        reply_bytes = 0 if self.is_global else hits * _HIT_BYTES + 2 * _VARINT_BYTES
        most = min(max(budget // max(row_bytes, reply_bytes, 1), 1), total - first)
        if not self.exclude.given:
            return most
        splits = self.exclude.splits[first : first + most + 1]
        rows = numpy.arange(1, most + 1)
        taken = rows * (row_bytes + _VARINT_BYTES) + (splits[1:] - splits[0]) * _VARINT_BYTES
        return max(int(numpy.searchsorted(taken, budget, side="right")), 1)

    def request(self, kind: Any, first: int, rows: int, version: Optional[int], **fields: Any) -> Any:
        """A SearchRequest or MaxInnerProductRequest about query rows [first, first + rows), without matrices."""
        request = kind(
            top_k=0 if self.count_only else self.top_k,
            reduction=self.reduction,
            metric=self.metric,
            min_score=self.min_score,
            max_score=self.max_score,
            count_only=self.count_only,
            version=version,
            **fields,
        )
        if self.exclude.given:
            splits = self.exclude.splits[first : first + rows + 1]
            request.exclude.row_splits.extend((splits - splits[0]).tolist())
            request.exclude.ids.extend(self.exclude.ids[splits[0] : splits[-1]].tolist())
        return request

    def about(self, queries: WireRows, first: int, rows: int, version: Optional[int], tag: int = 0) -> Message:
        request = self.request(
            dotmax_pb2.SearchRequest, first, rows, version, collection=self.collection, tag=tag
        )
        number = dotmax_pb2.SearchRequest.QUERIES_FIELD_NUMBER
        return Message.of(request).plus(number, Message.of_rows(queries, first, rows))


def question(
    top_k: int,
    reduction: str,
    metric: str,
    min_score: Optional[float],
    max_score: Optional[float],
    count_only: bool,
    exclude: Optional[Sequence[numpy.typing.ArrayLike]],
    collection: str = "",
    version: Optional[int] = None,
) -> Question:
    if not 0 <= top_k < 1 << 32:
        raise ValueError(f"top_k: {top_k} is not from 0 to 2**32 - 1")
    return Question(
        top_k,
        _choice("reduction", reduction, _REDUCTIONS),
        _choice("metric", metric, _METRICS),
        min_score,
        max_score,
        count_only,
        Exclusions(exclude),
        collection,
        version,
    )


def _best(message: Any, holder: Any) -> Optional[Best]:
    if not holder.HasField("best"):
        return None
    return Best(message.query_row, message.id, message.score, getattr(message, "pair", 0))


_STATS = [field.name for field in dataclasses.fields(Stats)]


def _stats(stats: Any) -> Stats:
    return Stats(*(getattr(stats, name) for name in _STATS))


def _sum(a: Stats, b: Stats) -> Stats:
    return Stats(*(getattr(a, name) + getattr(b, name) for name in _STATS))


def result_of(response: Any, asked: Question, tag: int = 0) -> SearchResult:
    return SearchResult(
        row_splits=numpy.array(response.row_splits, numpy.uint64),
        flat_ids=numpy.array(response.ids, numpy.uint64),
        flat_scores=numpy.array(response.scores, numpy.float64),
        query_rows=numpy.array(response.query_rows, numpy.uint64) if asked.is_global else None,
        best=_best(response.best, response),
        truncated=numpy.array(response.truncated, numpy.bool_),
        counts=numpy.array(response.counts, numpy.uint64),
        version=response.version,
        coverage=response.coverage,
        stats=_stats(response.stats),
        tag=tag,
    )


def _merged(asked: Question, all_: SearchResult, part: SearchResult) -> "dict[str, Any]":
    """Global hits of both, sorted; on ties `all_` comes first, whose query rows are the lower ones."""
    scores = numpy.concatenate([all_.flat_scores, part.flat_scores])
    sign = 1.0 if asked.metric == dotmax_pb2.SQUARED_EUCLIDEAN else -1.0
    order = numpy.argsort(sign * scores, kind="stable")
    if not asked.wants_all:
        order = order[: max(asked.top_k, 1)]
    else:
        stops = [len(order)]
        # Of a list that was cut short nothing is known from its end on.
        ends = (len(all_.flat_ids), len(order))
        for result, end in zip((all_, part), ends):
            if result.truncated.any():
                stop = int(numpy.flatnonzero(order == end - 1)[0]) + 1 if len(result.flat_ids) else 0
                stops.append(stop)
        order = order[: min(stops)]
    queries = [r.query_rows if r.query_rows is not None else numpy.empty(0, "u8") for r in (all_, part)]
    return {
        "flat_ids": numpy.concatenate([all_.flat_ids, part.flat_ids])[order],
        "flat_scores": scores[order],
        "query_rows": numpy.concatenate(queries)[order],
        "truncated": all_.truncated | part.truncated,
        "counts": all_.counts + part.counts,
    }


def _joined(asked: Question, all_: SearchResult, part: SearchResult, first: int) -> SearchResult:
    """`all_`, which is of the query rows before `first`, and `part`, which is of those from there on."""
    best = all_.best
    if part.best is not None and (best is None or asked.better(part.best.score, best.score)):
        best = dataclasses.replace(part.best, query_row=part.best.query_row + first)
    if part.query_rows is not None:
        moved = dataclasses.replace(part, query_rows=part.query_rows + numpy.uint64(first))
        hits = _merged(asked, all_, moved)
    else:
        splits = part.row_splits[1:] + numpy.uint64(len(all_.flat_ids))
        hits = {"row_splits": numpy.concatenate([all_.row_splits, splits])}
        for name in ("flat_ids", "flat_scores", "truncated", "counts"):
            hits[name] = numpy.concatenate([getattr(all_, name), getattr(part, name)])
    coverage = min(all_.coverage, part.coverage)
    return dataclasses.replace(all_, best=best, coverage=coverage, stats=_sum(all_.stats, part.stats), **hits)


def _in_parts(
    asked: Question,
    total: int,
    row_bytes: int,
    budget: int,
    call_about: Callable[[int, int, Optional[int]], Call],
    progress: Callable[[int], None],
) -> Operation[SearchResult]:
    """Asks about query rows [0, total) in parts that fit into messages, all of one version, and joins the results."""
    asked.exclude.check(total)
    result: Optional[SearchResult] = None
    version = asked.version
    first = 0
    while result is None or first < total:
        rows = 0 if total == 0 else asked.rows_of_part(first, total, row_bytes, budget)
        part = result_of((yield call_about(first, rows, version)), asked)
        if result is None:
            result = part
            version = part.version or version
        else:
            result = _joined(asked, result, part, first)
        first += rows
        progress(first)
    return result


def _budget(max_message_bytes: int) -> int:
    return max(max_message_bytes - _ENVELOPE_BYTES, 1)


def search(
    asked: Question, queries: WireRows, max_message_bytes: int, progress: Progress
) -> Operation[SearchResult]:
    def about(first: int, count: int, version: Optional[int]) -> Call:
        return Call(SEARCH, lambda: asked.about(queries, first, count, version))

    budget = _budget(max_message_bytes)
    return (
        yield from _in_parts(
            asked, queries.count, queries.row_bytes, budget, about, lambda done: progress(done, queries.count)
        )
    )


def search_rows(
    asked: Question,
    of: str,
    first_row: int,
    rows: int,
    self_pairs: str,
    max_message_bytes: int,
    progress: Progress,
) -> Operation[SearchResult]:
    pairs = _choice("self_pairs", self_pairs, _SELF_PAIRS)
    total = rows
    if total == 0:
        # How many there are, for the parts.
        server = yield from describe()
        name = of or asked.collection
        named = [c for c in server.collections if c.name == name or (not name and len(server.collections) == 1)]
        total = max(named[0].rows - first_row, 0) if named else 0

    def about(first: int, count: int, version: Optional[int]) -> Call:
        chosen = dotmax_pb2.RowRange(collection=of, first=first_row + first, rows=count)
        request = asked.request(
            dotmax_pb2.SearchRequest,
            first,
            count,
            version,
            collection=asked.collection,
            resident_queries=chosen,
            self_pairs=pairs,
        )
        return Call(SEARCH, lambda: Message.of(request))

    budget = _budget(max_message_bytes)
    return (yield from _in_parts(asked, total, 0, budget, about, lambda done: progress(done, total)))


def max_inner_product(
    asked: Question, queries: WireRows, base: WireRows, max_message_bytes: int, progress: Progress
) -> Operation[SearchResult]:
    budget = _budget(max_message_bytes)
    pairs = queries.count * base.count
    request_type, part_type = dotmax_pb2.MaxInnerProductRequest, dotmax_pb2.MaxInnerProductStreamRequest

    def blocks(start: Message, first: int, count: int) -> Iterator[Message]:
        yield Message([]).plus(part_type.START_FIELD_NUMBER, start)
        rows = max(min(budget, _BLOCK_BYTES) // max(base.row_bytes, 1), 1)
        for row in range(0, base.count, rows):
            some = min(rows, base.count - row)
            yield Message([]).plus(part_type.BASE_FIELD_NUMBER, Message.of_rows(base, row, some))
            progress(first * base.count + count * (row + some), pairs)

    def about(first: int, count: int, _: Optional[int]) -> Call:
        start = Message.of(asked.request(request_type, first, count, None))
        start = start.plus(request_type.QUERIES_FIELD_NUMBER, Message.of_rows(queries, first, count))
        if start.size + base.count * base.row_bytes > budget:
            return Call(MAX_STREAM, lambda: blocks(start, first, count))
        whole = start.plus(request_type.BASE_FIELD_NUMBER, Message.of_rows(base, 0, base.count))
        return Call(MAX, lambda: whole)

    def done(rows: int) -> None:
        progress(rows * base.count, pairs)

    return (yield from _in_parts(asked, queries.count, queries.row_bytes, budget, about, done))


def max_of_pairs(
    matrices: Sequence[Tuple[_arrays.Rows, _arrays.Rows]], metric: str, max_message_bytes: int, progress: Progress
) -> Operation[PairsResult]:
    metric_number = _choice("metric", metric, _METRICS)
    pairs = [
        (_arrays.wire_rows(a, f"pairs[{p}].queries"), _arrays.wire_rows(b, f"pairs[{p}].base"))
        for p, (a, b) in enumerate(matrices)
    ]
    budget = _budget(max_message_bytes)

    def size(pair: int) -> int:
        return sum(rows.count * rows.row_bytes for rows in pairs[pair]) + _PAIR_BYTES

    def message(group: range) -> Message:
        out = Message.of(dotmax_pb2.BatchMaxInnerProductRequest(metric=metric_number))
        pieces = list(out.pieces)
        for pair in group:
            a, b = pairs[pair]
            fields = Message([]).plus(dotmax_pb2.MatrixPair.QUERIES_FIELD_NUMBER, Message.of_rows(a, 0, a.count))
            fields = fields.plus(dotmax_pb2.MatrixPair.BASE_FIELD_NUMBER, Message.of_rows(b, 0, b.count))
            pieces += Message([]).plus(dotmax_pb2.BatchMaxInnerProductRequest.PAIRS_FIELD_NUMBER, fields).pieces
        return Message(pieces)

    def groups(begin: int, end: int) -> List[range]:
        """Runs of pairs [begin, end) that fit into a message each."""
        found: List[range] = []
        first, taken = begin, 0
        for pair in range(begin, end):
            if taken + size(pair) > budget:
                found.append(range(first, pair))
                first, taken = pair, 0
            taken += size(pair)
        return found + [range(first, end)]

    best: Optional[Best] = None
    stats = Stats()
    columns: List[List[NDArray[Any]]] = [[], [], [], []]

    def add(found: Sequence[Any], offset: int, one: Optional[Best], cost: Stats) -> None:
        nonlocal best, stats
        for column, values, dtype in zip(columns, found, ("u8", "u8", "u8", "f8")):
            column.append(numpy.array(values, dtype))
        columns[0][-1] += numpy.uint64(offset)
        stats = _sum(stats, cost)
        smaller = metric_number == dotmax_pb2.SQUARED_EUCLIDEAN
        if one is not None and (best is None or (one.score < best.score if smaller else one.score > best.score)):
            best = dataclasses.replace(one, pair=one.pair + offset)

    begin = 0
    while begin < len(pairs):
        if size(begin) > budget:  # alone larger than a message
            asked = question(1, "global", metric, None, None, False, None)
            alone = yield from max_inner_product(asked, *pairs[begin], max_message_bytes, lambda *_: None)
            one = alone.best
            found = [[0], [one.query_row], [one.id], [one.score]] if one else [[], [], [], []]
            add(found, begin, one, alone.stats)
            begin += 1
            progress(begin, len(pairs))
            continue
        end = next((p for p in range(begin, len(pairs)) if size(p) > budget), len(pairs))
        parts = groups(begin, end)
        done = [0]

        def take(response: Any, begin: int = begin, parts: List[range] = parts, done: List[int] = done) -> None:
            # `best` of a response is of all pairs so far, so the last one decides.
            found = (response.pairs, response.query_rows, response.ids, response.scores)
            add(found, begin, _best(response.best, response), _stats(response.stats))
            done[0] += 1
            progress(parts[done[0] - 1].stop, len(pairs))

        yield Call(PAIRS_STREAM, lambda parts=parts: map(message, parts), take)  # type: ignore[misc]
        begin = end
    arrays = [numpy.concatenate([numpy.empty(0, "f8" if i == 3 else "u8"), *c]) for i, c in enumerate(columns)]
    return PairsResult(arrays[0], arrays[1], arrays[2], arrays[3], best, stats)


def _collection(message: Any) -> Collection:
    return Collection(
        name=message.name,
        rows=message.rows,
        dim=message.dim,
        dtype=matrix_pb2.DType.Name(message.dtype).lower(),
        resident_bytes=message.resident_bytes,
        screen=message.screen,
        version=message.version,
        file_changed=message.file_changed,
        estimates=[
            ScreenTiming(
                e.screen,
                e.batch_query_seconds,
                e.single_query_seconds if e.HasField("single_query_seconds") else None,
            )
            for e in message.estimates
        ],
    )


def describe() -> Operation[Server]:
    reply = yield Call(LIST, lambda: Message.of(collections_pb2.ListCollectionsRequest()))
    limits = reply.limits
    return Server([_collection(c) for c in reply.collections], limits.max_top_k, limits.max_message_bytes)


def load(method: Method, request: Any, progress: Progress) -> Operation[Collection]:
    loaded: List[Collection] = []

    def take(message: Any) -> None:
        if message.HasField("collection"):
            loaded.append(_collection(message.collection))
        elif message.bytes_total:
            progress(message.bytes_done, message.bytes_total)

    yield Call(method, lambda: Message.of(request), take)
    return loaded[-1]


def swap(a: str, b: str) -> Operation[Tuple[Collection, Collection]]:
    reply = yield Call(SWAP, lambda: Message.of(collections_pb2.SwapCollectionsRequest(a=a, b=b)))
    return _collection(reply.a), _collection(reply.b)


def drop(name: str) -> Operation[None]:
    yield Call(DROP, lambda: Message.of(collections_pb2.DropCollectionRequest(name=name)))


def is_serving() -> Operation[bool]:
    serving: bool = yield Call(HEALTH, lambda: Message([]))
    return serving
