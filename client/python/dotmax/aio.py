"""The client for asyncio: `Client` has the methods of dotmax.Client, to be awaited."""

from __future__ import annotations

import asyncio
from typing import (
    Any,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Concatenate,
    Iterable,
    Optional,
    ParamSpec,
    TypeVar,
    Union,
    cast,
)

import grpc
import grpc.aio

from dotmax import _questions
from dotmax import client as blocking
from dotmax._arrays import Message, Rows
from dotmax._channel import Bar, Connection, Deadline
from dotmax._stream import Stream
from dotmax.errors import Error, from_rpc
from dotmax.results import SearchResult

P = ParamSpec("P")
T = TypeVar("T")


def _awaited(
    method: Callable[Concatenate[blocking.Client, P], T],
) -> Callable[Concatenate[Client, P], Awaitable[T]]:
    """A method of the blocking client, which returns what `_run` does: here, something to await."""
    return cast(Any, method)  # type: ignore[no-any-return]


class Client(Connection):
    """One channel, for one event loop; an async context manager. Arguments are dotmax.Client's.

    A task that is cancelled cancels its call.
    """

    _grpc = grpc.aio

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    search = _awaited(blocking.Client.search)
    search_rows = _awaited(blocking.Client.search_rows)
    max = _awaited(blocking.Client.max)
    pairs = _awaited(blocking.Client.pairs)
    describe = _awaited(blocking.Client.describe)
    load = _awaited(blocking.Client.load)
    reload = _awaited(blocking.Client.reload)
    swap = _awaited(blocking.Client.swap)
    drop = _awaited(blocking.Client.drop)
    is_serving = _awaited(blocking.Client.is_serving)

    async def search_stream(
        self,
        batches: Union[Iterable[Rows], AsyncIterable[Rows]],
        top_k: int = 1,
        *,
        ordered: bool = True,
        on_error: Optional[Callable[[Error], None]] = None,
        collection: str = "",
        reduction: blocking.Reduction = "per_row",
        metric: blocking.Metric = "inner_product",
        min_score: Optional[float] = None,
        max_score: Optional[float] = None,
        count_only: bool = False,
        version: Optional[int] = None,
        timeout: Optional[float] = None,
    ) -> AsyncIterator[SearchResult]:
        """As dotmax.Client.search_stream, by `async for`; batches may come from an async iterator, too."""
        asked = _questions.question(
            top_k, reduction, metric, min_score, max_score, count_only, None, collection, version
        )
        stream = Stream(asked, ordered)
        call = self._stub(_questions.SEARCH_STREAM)(
            _requests(stream, batches), timeout=timeout, metadata=self._metadata
        )
        try:
            async for message in call:
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

    async def _run(
        self, operation: _questions.Operation[T], timeout: Optional[float] = None, bar: Optional[Bar] = None
    ) -> T:
        deadline = Deadline(self._timeout if timeout is None else timeout)
        response: Any = None
        try:
            while True:
                response = await self._call(operation.send(response), deadline)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            if bar is not None:
                bar.close()

    async def _call(self, call: _questions.Call, deadline: Deadline) -> Any:
        for attempt in range(self._retries + 1):
            seen = False
            try:
                reply = self._stub(call.method)(
                    call.requests(), timeout=deadline.for_call(), metadata=self._metadata
                )
                if call.take is None:
                    return await reply
                async for message in reply:
                    seen = True
                    call.take(message)
                return None
            except grpc.RpcError as failure:
                delay = self._delay(from_rpc(failure), seen or attempt == self._retries, deadline)
            await asyncio.sleep(delay)


async def _requests(
    stream: Stream, batches: Union[Iterable[Rows], AsyncIterable[Rows]]
) -> AsyncIterator[Message]:
    if not isinstance(batches, AsyncIterable):
        for message in stream.requests(batches):
            yield message
        return
    try:
        async for batch in batches:
            yield stream.request(batch)
    except Exception as failure:
        stream.failure = failure
