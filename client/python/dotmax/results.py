"""What calls return."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import List, Optional, Tuple

import numpy
from numpy.typing import NDArray

NO_ID = (1 << 64) - 1  # of places in `SearchResult.ids` that have no hit; their scores are NaN


@dataclass(frozen=True)
class Best:
    """The best of all hits. `pair` is where many pairs of matrices were asked about."""

    query_row: int
    id: int
    score: float
    pair: int = 0


@dataclass(frozen=True)
class Stats:
    """What the answer cost the server; of a question that went in several messages, in all."""

    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    pairs_screened: int = 0
    pairs_survived: int = 0
    pairs_checked: int = 0
    pairs_rescored: int = 0


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Hits, best first.

    Per row, hits of query row i are `result[i]`, a pair (ids, scores) of arrays. `ids` (uint64) and `scores` (float64)
    have all of them as (M, K) arrays, K being the most hits of a row; where rows have fewer, NO_ID and NaN fill up.

    Over all rows (reduction="global") `ids`, `scores` and `query_rows` are arrays of the same length.
    """

    row_splits: NDArray[numpy.uint64]  # (M + 1,): hits of row i are flat_ids[row_splits[i]:row_splits[i + 1]]
    flat_ids: NDArray[numpy.uint64]
    flat_scores: NDArray[numpy.float64]
    query_rows: Optional[NDArray[numpy.uint64]]  # only if global
    best: Optional[Best]  # None when there is no hit
    truncated: NDArray[numpy.bool_]  # (M,), or (1,) if global; with a range and top_k=0: whether there are more
    counts: NDArray[numpy.uint64]  # (M,), or (1,) if global; with count_only
    version: int  # of the collection; 0 for matrices that were sent
    coverage: float  # rows searched / rows held
    stats: Stats
    tag: int = 0  # of search_stream: the number of the batch

    def __len__(self) -> int:
        """Query rows; hits if global."""
        return len(self.flat_ids) if self.query_rows is not None else max(len(self.row_splits) - 1, 0)

    def __getitem__(self, row: int) -> Tuple[NDArray[numpy.uint64], NDArray[numpy.float64]]:
        """The ids and scores of a query row."""
        if self.query_rows is not None:
            raise TypeError("hits over all query rows are not by row: see query_rows")
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        hits = slice(int(self.row_splits[row]), int(self.row_splits[row + 1]))
        return self.flat_ids[hits], self.flat_scores[hits]

    @functools.cached_property
    def ids(self) -> NDArray[numpy.uint64]:
        ids: NDArray[numpy.uint64] = self._by_row(self.flat_ids, numpy.uint64(NO_ID))
        return ids

    @functools.cached_property
    def scores(self) -> NDArray[numpy.float64]:
        scores: NDArray[numpy.float64] = self._by_row(self.flat_scores, numpy.float64("nan"))
        return scores

    def _by_row(self, flat: NDArray[numpy.generic], absent: numpy.generic) -> "numpy.ndarray":  # type: ignore[type-arg]
        if self.query_rows is not None:
            return flat
        sizes = numpy.diff(self.row_splits.astype(numpy.int64))
        width = int(sizes.max()) if len(sizes) else 0
        if len(flat) == len(sizes) * width:
            return flat.reshape(len(sizes), width)
        padded = numpy.full((len(sizes), width), absent)
        padded[numpy.arange(width) < sizes[:, None]] = flat
        return padded


@dataclass(frozen=True, eq=False)
class PairsResult:
    """The best of each pair of matrices, as arrays of the same length; pairs without rows on a side are left out."""

    pairs: NDArray[numpy.uint64]  # ascending
    query_rows: NDArray[numpy.uint64]
    ids: NDArray[numpy.uint64]
    scores: NDArray[numpy.float64]
    best: Optional[Best]  # of all; the lowest pair on ties
    stats: Stats


@dataclass(frozen=True)
class ScreenTiming:
    """What a way to rule out hopeless pairs took when the matrix was loaded: seconds per query, on one thread."""

    screen: str
    batch_query_seconds: float
    single_query_seconds: Optional[float]


@dataclass(frozen=True)
class Collection:
    """A matrix that the server holds."""

    name: str
    rows: int
    dim: int
    dtype: str  # "float32", "float16", "bfloat16", "float64", "int8"
    resident_bytes: int
    screen: str
    version: int
    file_changed: bool  # its mapped file was changed: searches fail until it is loaded again
    estimates: List[ScreenTiming] = field(default_factory=list)


@dataclass(frozen=True)
class Server:
    """What a server holds, by name, and its limits."""

    collections: List[Collection]
    max_top_k: int
    max_message_bytes: int
