"""What a type checker must see in the client: checked by mypy --strict in test_package.py, not run."""

from typing import Awaitable, List, Optional

import numpy
from numpy.typing import NDArray

import dotmax
import dotmax.aio


def blocking(client: dotmax.Client, rows: NDArray[numpy.float32]) -> Optional[float]:
    found: dotmax.SearchResult = client.search(rows, top_k=3, metric="cosine", timeout=1.0)
    ids: NDArray[numpy.uint64] = found.ids
    tags: List[int] = [result.tag for result in client.search_stream([rows], 3)]
    client.search(rows, metric="dot")  # type: ignore[arg-type]
    best = client.max(rows, dotmax.bfloat16(rows.astype(numpy.uint16))).best
    return best.score + len(ids) + len(tags) if best else None


async def awaited(client: dotmax.aio.Client, rows: NDArray[numpy.float32]) -> int:
    pending: Awaitable[dotmax.SearchResult] = client.search(rows, top_k=3, reduction="global")
    await client.search(rows, top="3")  # type: ignore[call-arg]
    return len(await pending) + len([result.ids async for result in client.search_stream([rows])])
