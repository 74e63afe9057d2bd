#!/usr/bin/python3
"""Checks a running system's answers with a client and an arithmetic that are not ours.

Starts the real server on a float32 or float16 .npy file, asks it over gRPC with Debian's grpcio, for single rows
and globally, and compares every id and every score, bit for bit, with math.fsum over exact float64 products.

  tests/fsum_check.py --server PROGRAM --matrix FILE.npy [--queries N] [--top-k K ...]
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import grpc
import numpy

PROTOS = pathlib.Path(__file__).resolve().parent.parent / "proto"


def generated(directory):
    """The wire contract's Python modules, made by protoc."""
    files = [str(path) for path in sorted(PROTOS.glob("dotmax/v1/*.proto"))] + ["google/rpc/status.proto"]
    subprocess.run(["protoc", f"--proto_path={PROTOS}", f"--python_out={directory}", *files], check=True)
    sys.path.insert(0, directory)
    from dotmax.v1 import dotmax_pb2, matrix_pb2

    return dotmax_pb2, matrix_pb2


def start(program, matrix, *flags, cwd=None):
    """A server of a file as collection "base", or of what the flags say; and its port."""
    server = subprocess.Popen(
        [program, *([f"--matrix=base={matrix}"] if matrix else []), "--listen=127.0.0.1:0", "--metrics-listen=", *flags],
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )
    port = 0
    for line in server.stderr:
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "listening":
            port = event["grpc_port"]
        if event.get("event") == "ready":
            return server, port
    raise SystemExit("the server did not start")


def exact_top_k(query, base, wide, top_k):
    """The top_k of (score, id) for one query: fsum decides, float64 only chooses whom to ask."""
    approximate = wide @ query
    # Any float64 sum of dim products errs by less than dim * 2^-53 * sum |products|; twice for both sides.
    slack = 4 * len(query) * 2.0**-53 * float(numpy.abs(base).max()) * float(numpy.abs(query).sum()) + 1e-300
    cut = numpy.partition(approximate, -top_k)[-top_k] - slack
    scored = [
        (-math.fsum(float(x) * float(y) for x, y in zip(query, wide[row])) + 0.0, int(row))
        for row in numpy.flatnonzero(approximate >= cut)
    ]
    return [(-score + 0.0, row) for score, row in sorted(scored)[:top_k]]


def same(got, right):
    """Bit for bit: -0.0 is not 0.0."""
    return got == right and [hit[0].hex() for hit in got] == [hit[0].hex() for hit in right]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True)
    parser.add_argument("--matrix", required=True)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--top-k", type=int, nargs="+", default=[1, 10, 100])
    options = parser.parse_args()

    base = numpy.load(options.matrix)
    wide = base.astype(numpy.float64)
    random = numpy.random.default_rng(20)
    rows = random.integers(len(base), size=options.queries)
    queries = (wide[rows] * random.normal(1.0, 0.1, (options.queries, base.shape[1]))).astype(numpy.float32)
    queries[::2] = wide[rows[::2]]  # half of them are rows themselves

    # The hits for a smaller top_k are the first of those for a larger one.
    most = min(max(options.top_k), len(base))
    expected = [exact_top_k(query, base, wide, most) for query in queries.astype(numpy.float64)]
    flat = sorted((-score, query_row, row) for query_row, hits in enumerate(expected) for score, row in hits)
    expected_global = [(-score + 0.0, query_row, row) for score, query_row, row in flat]

    with tempfile.TemporaryDirectory() as directory:
        dotmax_pb2, matrix_pb2 = generated(directory)
        server, port = start(options.server, options.matrix)
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                search = channel.unary_unary(
                    "/dotmax.v1.Dotmax/Search",
                    request_serializer=dotmax_pb2.SearchRequest.SerializeToString,
                    response_deserializer=dotmax_pb2.SearchResponse.FromString,
                )

                def ask(part, top_k, reduction):
                    matrix = matrix_pb2.Matrix(
                        rows=len(part), dim=part.shape[1], dtype=matrix_pb2.FLOAT32, data=part.tobytes()
                    )
                    return search(
                        dotmax_pb2.SearchRequest(queries=matrix, top_k=top_k, reduction=reduction), timeout=300
                    )

                wrong = 0
                for top_k in options.top_k:
                    right = [hits[:top_k] for hits in expected]
                    for batch in (1, 16, len(queries)):  # the same answer whatever the batch
                        got = []
                        for first in range(0, len(queries), batch):
                            reply = ask(queries[first : first + batch], top_k, dotmax_pb2.PER_ROW)
                            for begin, end in zip(reply.row_splits, reply.row_splits[1:]):
                                got.append(list(zip(reply.scores[begin:end], reply.ids[begin:end])))
                        wrong += sum(not same(*pair) for pair in zip(got, right, strict=True))
                    reply = ask(queries, top_k, dotmax_pb2.GLOBAL)
                    got = list(zip(reply.scores, reply.query_rows, reply.ids))
                    wrong += not same(got, expected_global[:top_k])
        finally:
            server.terminate()
            code = server.wait(timeout=60)

    print(
        f"{len(base)} x {base.shape[1]} {base.dtype}: {len(queries)} queries, top {', '.join(map(str, options.top_k))}, in batches of 1, 16 "
        f"and {len(queries)}, and globally: {wrong} answers differ from math.fsum; the server exited with {code}"
    )
    return 1 if wrong or code else 0


if __name__ == "__main__":
    sys.exit(main())
