#!/usr/bin/python3
"""dotmax's engine beside FAISS on one thread: microseconds per query, medians, top 1.

  tests/bench/peers.py --bench build/ci/tests/bench/engine_bench --matrix FILE.npy

FAISS is IndexFlatIP, exact in float32, from Debian's python3-faiss, in both of its paths (its own loop, and BLAS,
forced by its threshold); the better one counts. Queries are 1,024 rows held out of the matrix. Each batch size is measured in turn, first one, then the other, so
that both see the same machine. dotmax's scores are those of float64, FAISS's of float32.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before the libraries load

import faiss  # noqa: E402
import numpy  # noqa: E402

REPEATS = 5
HELD_OUT = 1024
SHUFFLE = 397


def engine_seconds(program, matrix, batch):
    """Median seconds of a batch, as the benchmark program reports it."""
    report = subprocess.run(
        [program, f"--matrix={matrix}", f"--benchmark_filter=exact/{batch}/", "--benchmark_min_time=0.1"]
        + ["--benchmark_out=/dev/stderr", "--benchmark_out_format=json"],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ).stderr
    runs = json.loads(report[report.index('{\n  "context"') :])["benchmarks"]
    return next(run["real_time"] for run in runs if run.get("aggregate_name") == "median") / 1e3


def faiss_seconds(index, batches):
    """The better path's median for one of the batches."""
    paths = []
    for threshold in (1 << 30, 1):
        faiss.cvar.distance_compute_blas_threshold = threshold
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            for batch in batches:
                index.search(batch, 1)
            times.append((time.perf_counter() - start) / len(batches))
        paths.append(statistics.median(times))
    return min(paths)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True)
    parser.add_argument("--matrix", required=True)
    parser.add_argument("--batches", default="1,16,256,1024")
    options = parser.parse_args()

    base = numpy.load(options.matrix).astype(numpy.float32)
    held_out = numpy.arange(HELD_OUT) * (len(base) // HELD_OUT)  # as engine_bench does
    queries, base = numpy.empty_like(base[held_out]), numpy.delete(base, held_out, axis=0)
    queries[numpy.arange(HELD_OUT) * SHUFFLE % HELD_OUT] = numpy.load(options.matrix)[held_out]
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(base.shape[1])
    index.add(base)
    print(f"{options.matrix}: {base.shape[0]} x {base.shape[1]}; FAISS {faiss.__version__}; us per query")
    print(f"{'batch':>6} {'FAISS':>10} {'dotmax':>10} {'ratio':>7}")
    for batch in map(int, options.batches.split(",")):
        few = min(8, HELD_OUT // batch)
        theirs = faiss_seconds(index, numpy.split(queries[: few * batch], few)) / batch * 1e6
        ours = engine_seconds(options.bench, options.matrix, batch) / batch * 1e6
        print(f"{batch:6} {theirs:10.1f} {ours:10.1f} {theirs / ours:7.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
