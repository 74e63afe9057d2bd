#!/usr/bin/python3
"""Makes cases.json and the matrices beside it: what every client must ask and get, and what it must be refused.

  tests/conformance/make_cases.py [DIRECTORY]

Expected scores are computed in rational numbers and rounded once; nothing of dotmax takes part. Clients run the list
against a server that holds the matrices: see README.md for the format.
"""

import decimal
import json
import math
import pathlib
import sys
from fractions import Fraction

import numpy

DTYPES = {"FLOAT32": "<f4", "FLOAT16": "<f2", "FLOAT64": "<f8", "INT8": "|i1"}
DOT, COSINE, DISTANCE = "INNER_PRODUCT", "COSINE", "SQUARED_EUCLIDEAN"
decimal.getcontext().prec = 100

# The matrices that the server holds: `words` has equal rows, a row of zeros, and sums that cancel.
WORDS = [
    [1.0, 2.0, -1.0],
    [0.5, -0.25, 3.0],
    [1.0, 2.0, -1.0],
    [0.0, 0.0, 0.0],
    [1e8, 1.0, -1e8],
    [-2.0, 0.125, 0.0],
    [3.0, 3.0, 3.0],
    [0.1, 0.2, 0.3],
    [-1.0, -2.0, 1.0],
    [1e-20, -1e-20, 1e-30],
]
RESIDENT = {
    "words": ("FLOAT32", WORDS),
    "halves": ("FLOAT16", [[1.0, 0.5], [-2.0, 0.25], [0.333, 5.0], [65504.0, -65504.0], [6e-8, 1.0]]),
    "wide": ("FLOAT64", [[0.1, 0.2], [1e308, 1e-308], [-1e154, 3.0], [1 / 3, 2 / 3]]),
    "bytes": ("INT8", [[1, -2, 3, 4], [-128, 127, 0, 1], [5, 5, 5, 5], [0, 0, 0, 0]]),
    "empty": ("FLOAT32", numpy.empty((0, 3))),
}


def stored(dtype, rows):
    """The numbers that a matrix of `dtype` holds."""
    return numpy.asarray(rows).astype(DTYPES[dtype])


def message(rows, dtype="FLOAT32"):
    """A Matrix as cases have it: row-major values, or for half precision their bits."""
    if dtype == "BFLOAT16":
        bits = numpy.asarray(rows, "<f4").view("<u4") >> 16
        return {"dtype": dtype, "dim": bits.shape[1], "bits": bits.ravel().tolist()}
    array = stored(dtype, rows)
    if dtype == "FLOAT16":
        return {"dtype": dtype, "dim": array.shape[1], "bits": array.view("<u2").ravel().tolist()}
    return {"dtype": dtype, "dim": array.shape[1], "values": array.ravel().tolist()}


def numbers(matrix):
    """The rows of a message, exactly."""
    dim, dtype = matrix["dim"], matrix["dtype"]
    if dtype == "FLOAT16":
        flat = numpy.array(matrix["bits"], "<u2").view("<f2").astype(float)
    elif dtype == "BFLOAT16":
        flat = (numpy.array(matrix["bits"], "<u4") << 16).view("<f4").astype(float)
    else:
        flat = numpy.array(matrix["values"], float)
    return [[Fraction(x) for x in row] for row in flat.reshape(-1, dim).tolist()]


def score(metric, a, b):
    if metric == DISTANCE:
        return float(sum((x - y) ** 2 for x, y in zip(a, b)))
    dot = sum(x * y for x, y in zip(a, b))
    if metric == DOT:
        return float(dot)
    squares = sum(x * x for x in a) * sum(y * y for y in b)
    if squares == 0:
        return 0.0
    root = (decimal.Decimal(squares.numerator) / decimal.Decimal(squares.denominator)).sqrt()
    return float(decimal.Decimal(dot.numerator) / decimal.Decimal(dot.denominator) / root) + 0.0


def hits(request, a, b, first=0):
    """All (sign * score, query row, id), best first, that the request does not rule out; the sign."""
    metric = request.get("metric", DOT)
    sign = 1 if metric == DISTANCE else -1
    out = []
    for i, query in enumerate(a):
        for j, row in enumerate(b):
            if j in request.get("exclude", [[]] * len(a))[i]:
                continue
            if request.get("self_pairs") == "NOT_ITSELF" and first + i == j:
                continue
            if request.get("self_pairs") == "EACH_ONCE" and first + i >= j:
                continue
            value = score(metric, query, row)
            if value < request.get("min_score", -math.inf) or value > request.get("max_score", math.inf):
                continue
            out.append((sign * value, i, j))
    return sorted(out), sign


def answer(request, a, b, first=0):
    found, sign = hits(request, a, b, first)
    ranged = "min_score" in request or "max_score" in request
    in_all = request.get("reduction") == "GLOBAL"
    counting = request.get("count_only", False)
    most = 0 if counting else None if ranged and request.get("top_k", 0) == 0 else max(request.get("top_k", 0), 1)
    groups = [found] if in_all else [[hit for hit in found if hit[1] == i] for i in range(len(a))]
    kept = [hit for group in groups for hit in group[:most]]
    reply = {"ids": [j for _, _, j in kept], "scores": [sign * value + 0.0 for value, _, _ in kept]}
    if in_all:
        reply["query_rows"] = [i for _, i, _ in kept]
    else:
        reply["row_splits"] = numpy.cumsum([0, *(len(group[:most]) for group in groups)]).tolist()
    value, i, j = min(kept) if kept else (0, 0, 0)
    reply["best"] = {"query_row": i, "id": j, "score": sign * value + 0.0} if kept else None
    if counting:
        reply["counts"] = [len(group) for group in groups]
    if most is None:
        reply["truncated"] = [False] * len(groups)
    return reply


held = {name: [[Fraction(x) for x in row] for row in stored(*matrix).astype(float).tolist()] for name, matrix in RESIDENT.items()}
cases = []


def case(name, call, request, **outcome):
    cases.append({"name": name, "call": call, "request": request, **outcome})


def search(name, queries, collection="words", **asked):
    # Clients have a top_k of 1 where none is given, also with a range.
    ranged = not {"min_score", "max_score"}.isdisjoint(asked)
    request = {"collection": collection, "queries": queries, "top_k": 0 if ranged else 1, **asked}
    case(name, "search", request, reply=answer(request, numbers(queries), held[collection]))


def refused(name, call, request, code, reason, *fields):
    case(name, call, request, error={"code": code, "reason": reason, "fields": list(fields)})


def search_error(name, code, reason, *fields, queries=message([[1, 2, 3]]), collection="words", **asked):
    refused(name, "search", {"collection": collection, "queries": queries, **asked}, code, reason, *fields)


A = message([[1, 2, 3], [-1, 0.5, 0.25], [0, 0, 0], [1e-8, 1, 1e-8], [1, 2, -1]])
for metric in (DOT, COSINE, DISTANCE):
    search(f"one hit per row, {metric}", A, metric=metric)
    search(f"all hits per row, and top_k beyond the rows, {metric}", A, metric=metric, top_k=25)
    search(f"the three best of all pairs, {metric}", A, metric=metric, top_k=3, reduction="GLOBAL")
    search(f"all pairs in order, {metric}", A, metric=metric, top_k=100, reduction="GLOBAL")
search("top_k 0 is 1", A, top_k=0)
search("equal rows: the lowest id", message([[1, 2, -1]]), top_k=2)
search("a query of zeros: every score is 0, ids in order", message([[0, 0, 0]]), top_k=10)
search("sums that cancel", message([[1, 1e-9, 1]]), top_k=10)
search("no queries", message(numpy.empty((0, 3))), top_k=3)
search("no queries, globally", message(numpy.empty((0, 3))), reduction="GLOBAL")
search("a collection without rows", A, "empty", top_k=3)
search("a range without top_k", A, min_score=1.0)
search("equality is inside a range", message([[1, 2, -1]]), min_score=6.0)
search("a range with top_k", A, min_score=0.0, top_k=2)
search("a range that nothing is in", A, min_score=1e30)
search("a range of distances", A, metric=DISTANCE, max_score=9.0)
search("a range over all pairs", A, metric=COSINE, min_score=0.5, reduction="GLOBAL")
search("counted per row", A, min_score=0.0, count_only=True)
search("counted over all pairs", A, metric=DISTANCE, max_score=14.0, count_only=True, reduction="GLOBAL")
search("excluded ids", A, top_k=3, exclude=[[4, 6], [], [0, 1, 2, 99], [4], [0]])
for dtype in ("FLOAT64", "FLOAT16", "BFLOAT16", "INT8"):
    search(f"queries of {dtype}", message([[1, 2, 3], [-3, 1, 0]], dtype), top_k=4)
search("float64 queries that are no float32 numbers", message([[0.1, 0.2, 0.3]], "FLOAT64"), top_k=10)
search("a float16 collection", message([[0.1, -0.7], [1, 1]]), "halves", top_k=5)
search("a float16 collection, nearest", message([[0.333, 5]], "FLOAT16"), "halves", top_k=5, metric=DISTANCE)
search("a float64 collection", message([[0.1, 0.2], [1e-300, 1e300]], "FLOAT64"), "wide", top_k=4)
search("an int8 collection", message([[127, -128, 127, 1]], "INT8"), "bytes", top_k=4)
search("an int8 collection, float queries", message([[0.1, 0.2, 0.3, 0.4]]), "bytes", top_k=4, metric=COSINE)

for name, asked in {
    "rows of a collection as queries": {"resident_queries": {"collection": "words", "first": 5, "rows": 3}, "top_k": 2},
    "no row is its own hit": {"resident_queries": {"first": 0}, "self_pairs": "NOT_ITSELF", "metric": COSINE},
    "the nearest two rows": {
        "resident_queries": {"first": 0},
        "self_pairs": "EACH_ONCE",
        "metric": DISTANCE,
        "reduction": "GLOBAL",
        "top_k": 3,
    },
}.items():
    first, rows = asked["resident_queries"]["first"], asked["resident_queries"].get("rows", len(WORDS))
    request = {"collection": "words", **asked}
    case(name, "search", request, reply=answer(request, held["words"][first : first + rows], held["words"], first))

B = message([[2, 0], [0.5, 0.5], [-1, 3]], "FLOAT64")
for reduction in ("PER_ROW", "GLOBAL"):
    request = {"queries": message([[1, 2], [3, -1]], "FLOAT16"), "base": B, "top_k": 2, "reduction": reduction}
    case(f"two matrices of different dtypes, {reduction}", "max", request, reply=answer(request, numbers(request["queries"]), numbers(B)))
request = {"queries": message([[1, 2]]), "base": message(numpy.empty((0, 2))), "reduction": "GLOBAL"}
case("a matrix without rows", "max", request, reply=answer(request, numbers(request["queries"]), []))

for metric in (DOT, DISTANCE):
    pairs = [
        {"queries": message([[1, 2], [3, 4]]), "base": message([[1, 1], [2, -1]])},
        {"queries": message([[1]]), "base": message(numpy.empty((0, 1)))},
        {"queries": message([[1, 2], [3, 4]]), "base": message([[1, 1], [1, 1]])},
        {"queries": message([[5, -5, 5]], "INT8"), "base": message([[0.5, 0.25, 1]], "FLOAT64")},
    ]
    reply = {"pairs": [], "query_rows": [], "ids": [], "scores": [], "best": None}
    for p, pair in enumerate(pairs):
        found, sign = hits({"metric": metric}, numbers(pair["queries"]), numbers(pair["base"]))
        if not found:
            continue
        value, i, j = found[0]
        for key, one in zip(("pairs", "query_rows", "ids", "scores"), (p, i, j, sign * value + 0.0)):
            reply[key].append(one)
        if reply["best"] is None or value < sign * reply["best"]["score"]:
            reply["best"] = {"pair": p, "query_row": i, "id": j, "score": sign * value + 0.0}
    case(f"pairs of matrices, {metric}", "pairs", {"pairs": pairs, "metric": metric}, reply=reply)

NAN = {"dtype": "FLOAT16", "dim": 3, "bits": [0, 0x7E00, 0]}
good, bad = answer({}, numbers(A), held["words"]), {"code": "INVALID_ARGUMENT", "reason": "NOT_FINITE", "fields": ["queries.data"]}
case("a stream with a bad request", "stream", [{"collection": "words", "queries": q} for q in (A, NAN, A)],
     replies=[{"reply": good}, {"error": bad}, {"reply": good}])

reply = [{"name": name, "rows": len(rows), "dim": numpy.shape(rows)[1], "dtype": dtype} for name, (dtype, rows) in sorted(RESIDENT.items())]
case("what is resident", "list", {}, reply=reply)

search_error("another dim", "INVALID_ARGUMENT", "DIM_MISMATCH", "queries.dim", queries=message([[1, 2]]))
search_error("a NaN", "INVALID_ARGUMENT", "NOT_FINITE", "queries.data", queries=NAN)
search_error("an infinity", "INVALID_ARGUMENT", "NOT_FINITE", "queries.data", queries={"dtype": "BFLOAT16", "dim": 3, "bits": [0, 0, 0x7F80]})
search_error("no such collection", "NOT_FOUND", "COLLECTION_NOT_FOUND", collection="none")
search_error("no name, and several collections", "NOT_FOUND", "COLLECTION_NOT_FOUND", collection="")
search_error("another version", "FAILED_PRECONDITION", "VERSION_MISMATCH", version=1000000)
search_error("top_k beyond the limit", "INVALID_ARGUMENT", "TOP_K_TOO_LARGE", "top_k", top_k=4000000000)
search_error("a bound that the metric does not have", "INVALID_ARGUMENT", "BOUND_OF_ANOTHER_METRIC", "max_score", max_score=1.0)
search_error("counting without a range", "INVALID_ARGUMENT", "NO_RANGE", "count_only", count_only=True)
search_error("a score beyond float64", "OUT_OF_RANGE", "SCORE_OVERFLOW", queries=message([[1e308, 1]], "FLOAT64"), collection="wide")
refused("rows that a collection does not have", "search", {"collection": "words", "resident_queries": {"first": 5, "rows": 50}}, "OUT_OF_RANGE", "ROWS_OUT_OF_RANGE")
refused("two matrices of different dims", "max", {"queries": message([[1, 2]]), "base": message([[1, 2, 3]])}, "INVALID_ARGUMENT", "DIM_MISMATCH", "base.dim")
refused("a NaN in a pair", "pairs", {"pairs": [{"queries": message([[1, 2, 3]]), "base": message([[1, 2, 3]])}, {"queries": message([[1, 2, 3]]), "base": NAN}]}, "INVALID_ARGUMENT", "NOT_FINITE", "pairs[1].base.data")
refused("dropping what is not there", "drop", {"name": "none"}, "NOT_FOUND", "COLLECTION_NOT_FOUND")
refused("swapping one", "swap", {"a": "words", "b": "words"}, "INVALID_ARGUMENT", "SAME_COLLECTION", "b")
refused("a file outside of the data directory", "load", {"name": "new", "path": "../words.npy"}, "PERMISSION_DENIED", "PATH_NOT_ALLOWED")


def main():
    directory = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    for name, matrix in RESIDENT.items():
        numpy.save(directory / f"{name}.npy", stored(*matrix))
    lines = ",\n".join(json.dumps(each) for each in cases)
    (directory / "cases.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
