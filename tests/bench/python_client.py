#!/usr/bin/python3
"""What the Python client adds to the generated stub: the same question asked by both in turns, of one server.

  cmake --preset ci && cmake --build --preset ci --target dotmax-server
  tests/bench/python_client.py [--rows 256] [--top-k 10] [--calls 200]

The stub's side makes its message from the array, and lists of ids and scores from the reply, as one has to without the
client; the client's side makes arrays. The server holds 100,000 x 100 standard normal numbers, on one thread.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

import numpy

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "client/python"), str(ROOT / "tests")]
import fsum_check  # noqa: E402
import grpc  # noqa: E402

import dotmax  # noqa: E402
from dotmax.v1 import dotmax_pb2, dotmax_pb2_grpc, matrix_pb2  # noqa: E402

BASE_ROWS, DIM = 100_000, 100


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default=ROOT / "build/ci/server/dotmax-server")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args()
    random = numpy.random.default_rng(1)
    base, queries = (random.standard_normal((n, DIM), dtype=numpy.float32) for n in (BASE_ROWS, options.rows))

    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "base.npy")
        numpy.save(path, base)
        server, port = fsum_check.start(str(options.server), path, "--threads=1")
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, dotmax.Client(f"127.0.0.1:{port}") as client:
            stub = dotmax_pb2_grpc.DotmaxStub(channel)

            def by_stub():
                matrix = matrix_pb2.Matrix(
                    rows=len(queries), dim=DIM, dtype=matrix_pb2.FLOAT32, data=queries.tobytes()
                )
                reply = stub.Search(dotmax_pb2.SearchRequest(queries=matrix, top_k=options.top_k))
                return list(reply.ids), list(reply.scores)

            def by_client():
                result = client.search(queries, options.top_k)
                return result.ids, result.scores

            ids, scores = by_stub()
            got = by_client()
            assert got[0].ravel().tolist() == ids and got[1].ravel().tolist() == scores
            seconds = {by_stub: [], by_client: []}
            for _ in range(options.calls):
                for ask, taken in seconds.items():
                    begin = time.perf_counter()
                    ask()
                    taken.append(time.perf_counter() - begin)
    finally:
        server.terminate()
        server.wait(timeout=60)
    stub_ms, client_ms = (1e3 * statistics.median(taken) for taken in seconds.values())
    print(
        f"{options.rows} queries, top {options.top_k}, of {BASE_ROWS:,} x {DIM}: stub {stub_ms:.2f} ms, client "
        f"{client_ms:.2f} ms: {100 * (client_ms / stub_ms - 1):+.1f}%"
    )


if __name__ == "__main__":
    main()
