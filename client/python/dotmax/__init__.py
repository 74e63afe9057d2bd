"""Exact maximum inner product search: the client of a dotmax server, numpy in and numpy out.

    import dotmax

    with dotmax.Client("localhost:50051") as client:
        result = client.search(queries, top_k=10)   # queries: (M, dim)
        result.ids, result.scores                   # (M, 10) each, best first
        client.max(a, b).best                       # the best pair of rows of two matrices

Every score is the true value of the numbers that were sent, rounded once to float64; ties go to the lowest row.
dotmax.aio.Client is the same for asyncio. dotmax.v1 has the generated messages and stubs.
"""

from dotmax._arrays import BFloat16, bfloat16
from dotmax._channel import Tls
from dotmax.client import Client
from dotmax.errors import Error, FieldViolation
from dotmax.results import (
    NO_ID,
    Best,
    Collection,
    PairsResult,
    ScreenTiming,
    SearchResult,
    Server,
    Stats,
)

__version__ = "0.1.0"
__all__ = [
    "NO_ID",
    "BFloat16",
    "Best",
    "Client",
    "Collection",
    "Error",
    "FieldViolation",
    "PairsResult",
    "ScreenTiming",
    "SearchResult",
    "Server",
    "Stats",
    "Tls",
    "bfloat16",
]
