"""The blocking client."""

from __future__ import annotations

import time
from typing import Any, Callable, Iterable, Iterator, Literal, Optional, Sequence, Tuple, TypeVar

import grpc
from numpy.typing import ArrayLike

from dotmax import _questions
from dotmax._arrays import Rows, wire_rows
from dotmax._channel import Bar, Connection, Deadline, ProgressOption
from dotmax._stream import Stream
from dotmax.errors import Error, from_rpc
from dotmax.results import Collection, PairsResult, SearchResult, Server
from dotmax.v1 import collections_pb2

T = TypeVar("T")
Metric = Literal["inner_product", "cosine", "squared_euclidean"]
Reduction = Literal["per_row", "global"]
SelfPairs = Literal["all", "not_itself", "each_once"]


class Client(Connection):
    """One channel to a server, or to all that a name stands for, which take turns. Thread-safe; a context manager.

    target             a gRPC name: "host:port", "unix:path", "dns:///host:port", "ipv4:address:port,address:port"
    timeout            seconds for a whole method call that does not give its own
    tls                True, or a Tls with files; False: in the clear
    token              sent with every call; without tls in the clear, too
    max_message_bytes  both ways; the server has a limit of its own
    retries            how often a call that is refused with a delay to wait is tried again, within its timeout

    Calls try again for about a second when the server is UNAVAILABLE. They raise dotmax.Error when they fail, and
    TypeError or ValueError, before anything is sent, for arguments that cannot be.
    """

    _grpc = grpc

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def search(
        self,
        queries: Rows,
        top_k: int = 1,
        *,
        collection: str = "",
        reduction: Reduction = "per_row",
        metric: Metric = "inner_product",
        min_score: Optional[float] = None,
        max_score: Optional[float] = None,
        count_only: bool = False,
        exclude: Optional[Sequence[ArrayLike]] = None,
        version: Optional[int] = None,
        timeout: Optional[float] = None,
        progress: ProgressOption = False,
    ) -> SearchResult:
        """The best rows of a collection for `queries`, an array of (M, dim), or (dim,) for one.

        collection  its name; "": the server's only one
        top_k       how many hits; 0 with a range: all within it, up to the server's limit (`truncated`)
        reduction   "per_row": top_k for each query row; "global": the top_k of all (query row, row) pairs
        min_score   and for "squared_euclidean" max_score: only scores at least as good
        count_only  only count the pairs within the range
        exclude     M arrays of ids that are no hits of their query row
        version     that must answer; other ones are FAILED_PRECONDITION
        progress    True for a bar (tqdm), or a function of (done, total)

        Queries that do not fit into one message go in several, all answered by one version.
        """
        asked = _questions.question(
            top_k, reduction, metric, min_score, max_score, count_only, exclude, collection, version
        )
        rows = wire_rows(queries, "queries")
        bar = Bar(progress, "queries")
        return self._run(_questions.search(asked, rows, self._max_message_bytes, bar.tell), timeout, bar)

    def search_rows(
        self,
        top_k: int = 1,
        *,
        of: str = "",
        first: int = 0,
        rows: int = 0,
        self_pairs: SelfPairs = "all",
        collection: str = "",
        reduction: Reduction = "per_row",
        metric: Metric = "inner_product",
        min_score: Optional[float] = None,
        max_score: Optional[float] = None,
        count_only: bool = False,
        exclude: Optional[Sequence[ArrayLike]] = None,
        version: Optional[int] = None,
        timeout: Optional[float] = None,
        progress: ProgressOption = False,
    ) -> SearchResult:
        """`search` with rows [first, first + rows) of the collection `of` as queries, which are not sent.

        of          "": the collection that is searched; rows=0: all from `first` on
        self_pairs  of a collection with itself: "all", "not_itself" (no row is its own hit), or "each_once" (of (i, j)
                    and (j, i) only the one with the smaller query row)
        """
        asked = _questions.question(
            top_k, reduction, metric, min_score, max_score, count_only, exclude, collection, version
        )
        bar = Bar(progress, "queries")
        return self._run(
            _questions.search_rows(asked, of, first, rows, self_pairs, self._max_message_bytes, bar.tell), timeout, bar
        )

    def max(
        self,
        a: Rows,
        b: Rows,
        top_k: int = 1,
        *,
        reduction: Reduction = "global",
        metric: Metric = "inner_product",
        min_score: Optional[float] = None,
        max_score: Optional[float] = None,
        count_only: bool = False,
        exclude: Optional[Sequence[ArrayLike]] = None,
        timeout: Optional[float] = None,
        progress: ProgressOption = False,
    ) -> SearchResult:
        """The best pairs of rows of `a` (M, dim) and `b` (N, dim), which are sent and held by no server.

        `result.best` has the score, the row of `a` (query_row) and the row of `b` (id). With reduction="per_row", the
        top_k rows of `b` for each row of `a`. What does not fit into one message is streamed.
        """
        asked = _questions.question(top_k, reduction, metric, min_score, max_score, count_only, exclude)
        queries, base = wire_rows(a, "a"), wire_rows(b, "b")
        bar = Bar(progress, "pairs")
        return self._run(
            _questions.max_inner_product(asked, queries, base, self._max_message_bytes, bar.tell), timeout, bar
        )

    def pairs(
        self,
        pairs: Sequence[Tuple[Rows, Rows]],
        *,
        metric: Metric = "inner_product",
        timeout: Optional[float] = None,
        progress: ProgressOption = False,
    ) -> PairsResult:
        """The best of each of many pairs (A, B) of matrices, of any shapes, and the best of all."""
        bar = Bar(progress, "pairs")
        return self._run(_questions.max_of_pairs(pairs, metric, self._max_message_bytes, bar.tell), timeout, bar)

    def search_stream(
        self,
        batches: Iterable[Rows],
        top_k: int = 1,
        *,
        ordered: bool = True,
        on_error: Optional[Callable[[Error], None]] = None,
        collection: str = "",
        reduction: Reduction = "per_row",
        metric: Metric = "inner_product",
        min_score: Optional[float] = None,
        max_score: Optional[float] = None,
        count_only: bool = False,
        version: Optional[int] = None,
        timeout: Optional[float] = None,
    ) -> Iterator[SearchResult]:
        """`search` of any number of batches in one call: one result each, `result.tag` being the batch's number.

        Batches are taken while results are: at most 64 are under way. A batch must fit into a message.

        ordered   False: results come as they are done
        on_error  takes the error of a batch that fails (its `tag` says which), and the others go on; None: it is raised
        timeout   of the whole stream; None: none
        """
        asked = _questions.question(
            top_k, reduction, metric, min_score, max_score, count_only, None, collection, version
        )
        stream = Stream(asked, ordered)
        call = self._stub(_questions.SEARCH_STREAM)(
            stream.requests(batches), timeout=timeout, metadata=self._metadata
        )
        try:
            for message in call:
                for result in stream.take(message):
                    if isinstance(result, SearchResult):
                        yield result
                    elif on_error is None:
                        raise result
                    else:
                        on_error(result)
        except grpc.RpcError as failure:
            raise from_rpc(failure) from None
        finally:
            call.cancel()
        if stream.failure is not None:
            raise stream.failure

    def describe(self) -> Server:
        """What is resident, and the server's limits."""
        return self._run(_questions.describe())

    def load(
        self, name: str, path: str, *, timeout: float = 3600.0, progress: ProgressOption = False
    ) -> Collection:
        """Loads a file by its path within the server's --data-dir, as a new collection or a new version of one."""
        request = collections_pb2.LoadCollectionRequest(name=name, path=path)
        bar = Bar(progress, "B")
        return self._run(_questions.load(_questions.LOAD, request, bar.tell), timeout, bar)

    def reload(self, name: str, *, timeout: float = 3600.0, progress: ProgressOption = False) -> Collection:
        """Loads a collection again from the file that it came from."""
        request = collections_pb2.ReloadCollectionRequest(name=name)
        bar = Bar(progress, "B")
        return self._run(_questions.load(_questions.RELOAD, request, bar.tell), timeout, bar)

    def swap(self, a: str, b: str) -> Tuple[Collection, Collection]:
        """Each name means what the other one did, from one moment to the next. Returns what they mean now."""
        return self._run(_questions.swap(a, b))

    def drop(self, name: str) -> None:
        """The name means nothing from now on."""
        return self._run(_questions.drop(name))

    def is_serving(self) -> bool:
        """Whether the server takes searches. Needs no token."""
        return self._run(_questions.is_serving())

    def _run(
        self, operation: "_questions.Operation[T]", timeout: Optional[float] = None, bar: Optional[Bar] = None
    ) -> T:
        deadline = Deadline(self._timeout if timeout is None else timeout)
        response: Any = None
        try:
            while True:
                response = self._call(operation.send(response), deadline)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            if bar is not None:
                bar.close()

    def _call(self, call: _questions.Call, deadline: Deadline) -> Any:
        for attempt in range(self._retries + 1):
            seen = False
            try:
                reply = self._stub(call.method)(
                    call.requests(), timeout=deadline.for_call(), metadata=self._metadata
                )
                if call.take is None:
                    return reply
                for message in reply:
                    seen = True
                    call.take(message)
                return None
            except grpc.RpcError as failure:
                delay = self._delay(from_rpc(failure), seen or attempt == self._retries, deadline)
            time.sleep(delay)
