#!/usr/bin/python3
"""dotmax's engine beside FAISS, numpy, torch and plain oneDNN: microseconds per query.

  deploy/install-deps.sh bench && cmake --preset ci && cmake --build --preset ci --target engine_worker
  tests/bench/peers.py                     every set of sets.py, batch size, number of threads and top_k
  tests/bench/peers.py --quick             the same with at most 20,000 rows
  tests/bench/peers.py --sets glove --batches 1,1024 --threads 1 --top-k 10
  tests/bench/peers.py --plot tests/bench/peers.svg --markdown      the figures of README.md, too

A round measures ours, then each peer, on the same queries (rows held out of the matrix) and with the same number of
threads, so that all see the same machine; a figure is the median of the rounds: --repeats of them, and more while they
are quick. A round runs small batches eight times, so that all find their caches as steady use would leave them.

FAISS is IndexFlatIP, the better of its two paths: its own loop, or BLAS, forced by its threshold. A path that needs
over twice the other's time for the first 16 queries is not tried in full. numpy and torch are matmul and argmax (torch:
topk, where more than one is wanted) of blocks of rows whose scores take 8 MB: for large batches far faster than all
scores at once. "float32" and "int8" are oneDNN's matmul alone, in tiles like ours, nothing done with the scores: for
large batches, the speed of light. GOPS counts 2·M·N·D operations per search, and "of int8" is the share of the int8
matmul's. "screened", "survived" (the first level of codes) and "checked" (in float64) are shares of all pairs,
"rescored" is pairs per query.

Every answer is compared. Ours must be the same in all rounds, and agree with float64 on a sample of the queries. Peers
are float32: where their hits differ from ours, "gap" is by how much at most, in float64, as a share of both lengths.
"""

import argparse
import math
import os
import pathlib
import statistics
import sys
import time

import machine  # first: see there

import faiss
import numpy
import threadpoolctl
import torch

import report
import sets

HELD_OUT = 1024
QUICK_ROWS = 20_000
SCORE_BYTES = 8 << 20  # of a block of rows for numpy and torch: 2 to 8 MB are best
CELL_SECONDS = 2  # rounds are added until a cell has taken so long
MOST_ROUNDS = 15
CALLS_PER_ROUND = 8  # of small batches; of at most CALLED_QUERIES in all
CALLED_QUERIES = 128
TRIAL_QUERIES = 16
SAMPLE = 16  # queries that are compared with float64


def blocks(base, queries):
    step = max(1, SCORE_BYTES // (4 * len(queries)))
    return ((first, base[first : first + step]) for first in range(0, len(base), step))


def best_in_blocks(base, queries):
    """The best score of each query, and its row, by numpy."""
    best, ids = numpy.full(len(queries), -numpy.inf), numpy.zeros(len(queries), dtype=numpy.int64)
    for first, rows in blocks(base, queries):
        scores = queries @ rows.T
        found = scores.argmax(axis=1)  # takes as long as max, and tells where
        values = scores[numpy.arange(len(queries)), found]
        better = values > best
        best[better], ids[better] = values[better], found[better] + first
    return best, ids


class Peers:
    """The other programs, each a function from queries and top_k to ids, best first; or None where it cannot."""

    def __init__(self, base):
        self.base = base
        self.index = faiss.IndexFlatIP(base.shape[1])
        self.index.add(base)
        self.tensor = torch.from_numpy(base)

    def all(self):
        return {"faiss-loop": self.loop, "faiss-blas": self.blas, "numpy": self.numpy, "torch": self.torch}

    def loop(self, queries, top_k):
        faiss.cvar.distance_compute_blas_threshold = 1 << 30
        return self.index.search(queries, top_k)[1]

    def blas(self, queries, top_k):
        faiss.cvar.distance_compute_blas_threshold = 1
        return self.index.search(queries, top_k)[1]

    def numpy(self, queries, top_k):
        if top_k > 1:
            return None
        return best_in_blocks(self.base, queries)[1][:, None]

    def torch(self, queries, top_k):
        queries = torch.from_numpy(queries)
        values, ids = [], []
        for first, rows in blocks(self.tensor, queries):
            scores = torch.mm(queries, rows.T)
            found = scores.max(dim=1, keepdim=True) if top_k == 1 else scores.topk(min(top_k, len(rows)))
            values.append(found.values)
            ids.append(found.indices + first)
        best = torch.cat(values, dim=1).topk(top_k).indices
        return torch.cat(ids, dim=1).gather(1, best).numpy()

    def worthwhile(self, queries, top_k):
        """all(), without those that cannot, and without FAISS's slower path where one is far slower."""
        found = self.all()
        times = {}
        for name, run in self.all().items():
            if run(queries, top_k) is None:
                found.pop(name)
            else:
                times[name] = min(machine.seconds(run, queries, top_k)[0] for _ in range(2))
        for path, other in (("faiss-loop", "faiss-blas"), ("faiss-blas", "faiss-loop")):
            if times[path] > 2 * times[other]:
                found.pop(path)
        return found


class Bench:
    """One set of vectors, in the memory of all programs, and its answers."""

    def __init__(self, name, rows, program, top_k):
        self.name = name
        self.queries, self.base = sets.hold_out(rows, HELD_OUT)
        self.worker = machine.Worker(program, self.base, self.queries)
        self.peers = Peers(self.base)
        self.plain = {}  # seconds of oneDNN's matmuls by batch and threads: top_k is nothing to them
        self.differ = {peer: [0, 0, 0.0] for peer in ("faiss", "numpy", "torch")}  # hits, of how many, largest gap
        reply = self.worker.ask("search", os.cpu_count(), 1, 0, HELD_OUT, top_k)
        self.ids = numpy.array(reply["ids"]).reshape(HELD_OUT, -1)
        self._check_sample(numpy.array(reply["scores"]).reshape(self.ids.shape))

    def describe(self):
        rows, dim = self.base.shape
        info = self.worker.info
        return (
            f"{self.name}: {rows:,} x {dim}; {info['screen']}; loaded in {info['load_seconds']:.1f} s;"
            f" {info['resident_bytes'] / rows:.0f} bytes per row, {4 * dim} of them the row's own"
        )

    def agreement(self):
        differ = (
            f"{peer} {differ:,} of {every:,}" + (f" (gap {gap:.0e})" if differ else "")
            for peer, (differ, every, gap) in self.differ.items()
        )
        return f"dotmax agrees with float64 ({SAMPLE} queries); hits that differ from dotmax's: {', '.join(differ)}"

    def measure(self, batch, threads, top_k, repeats):
        """One cell: all programs in turn, some rounds of it."""
        calls = max(1, min(CALLS_PER_ROUND, CALLED_QUERIES // batch))
        threadpoolctl.threadpool_limits(limits=threads)
        torch.set_num_threads(threads)
        peers = self.peers.worthwhile(self.queries[: min(batch, TRIAL_QUERIES)], top_k)
        plain = [] if (batch, threads) in self.plain else ["float32", "int8"]
        self.worker.ask("search", threads, 1, 0, batch, top_k)  # makes its kernels

        times = {name: [] for name in ("dotmax", *plain, *peers)}
        counts = dict.fromkeys(("pairs", "queries", "screened", "survived", "checked", "rescored"), 0)
        started = time.monotonic()
        rounds = 0
        while rounds < repeats or (rounds < MOST_ROUNDS and time.monotonic() - started < CELL_SECONDS):
            first = rounds * calls * batch % (HELD_OUT - calls * batch + 1)
            last = first + calls * batch
            rounds += 1
            self._pause(threads)
            reply = self.worker.ask("search", threads, calls, first, batch, top_k)
            if reply["ids"] != self.ids[first:last, :top_k].ravel().tolist():
                sys.exit(f"{self.name}: dotmax's answers differ from one batch to another")
            times["dotmax"].append(reply["seconds"])
            reply |= {"pairs": (last - first) * len(self.base), "queries": last - first}
            counts = {name: count + reply[name] for name, count in counts.items()}
            for kind in plain:
                times[kind].append(self.worker.ask(kind, threads, calls, first, batch).get("seconds", math.nan))
            for name, run in peers.items():
                batches = [self.queries[at : at + batch] for at in range(first, last, batch)]
                self._pause(threads)
                taken, found = machine.seconds(lambda: [run(queries, top_k) for queries in batches])
                times[name].append(taken / calls)
                self._compare(name.split("-")[0], numpy.concatenate(found), first)

        medians = {name: statistics.median(taken) for name, taken in times.items()}
        plain = self.plain.setdefault((batch, threads), {kind: medians[kind] for kind in plain})
        return report.Cell(self.name, self.base.shape, batch, threads, top_k, rounds, medians | plain, counts)

    @staticmethod
    def _pause(threads):
        if threads > 1:
            time.sleep(machine.IDLE_SECONDS)

    def _parts(self):
        return numpy.array_split(self.base, math.ceil(len(self.base) / 10_000))

    def _check_sample(self, scores):
        """Ends the program unless our ids and scores are float64's, up to its rounding."""
        sample = numpy.arange(SAMPLE) * (HELD_OUT // SAMPLE)
        queries = self.queries[sample].astype(numpy.float64)
        theirs = numpy.concatenate([queries @ part.astype(numpy.float64).T for part in self._parts()], axis=1)
        best = -numpy.sort(-theirs, axis=1)[:, : self.ids.shape[1]]
        found = numpy.take_along_axis(theirs, self.ids[sample], axis=1)
        longest = max(numpy.linalg.norm(part, axis=1).max() for part in self._parts())
        tolerance = 1e-13 * longest * numpy.linalg.norm(queries, axis=1, keepdims=True)
        if (abs(found - best) > tolerance).any() or (abs(found - scores[sample]) > tolerance).any():
            sys.exit(f"{self.name}: dotmax disagrees with float64")

    def _compare(self, peer, ids, first):
        """Counts a peer's hits of the queries from `first` on that differ from ours."""
        ours = self.ids[first : first + len(ids), : ids.shape[1]]
        tally = self.differ[peer]
        tally[0] += int((ids != ours).sum())
        tally[1] += ids.size
        for row, rank in numpy.argwhere(ids != ours):
            query = self.queries[first + row].astype(numpy.float64)
            pair = self.base[[ours[row, rank], ids[row, rank]]].astype(numpy.float64)
            lengths = numpy.linalg.norm(query) * numpy.linalg.norm(pair, axis=1).max()
            tally[2] = max(tally[2], abs(pair @ query @ (1, -1)) / lengths)


def versions():
    """Of what is compared here, by name."""
    options = faiss.get_compile_options().replace("OPTIMIZE", "").strip().lower()
    return {
        "FAISS": f"{faiss.__version__} ({options})",
        "numpy": numpy.__version__,
        "torch": torch.__version__,
    }


def main():
    def numbers(text):
        return [int(word) for word in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(sets.SETS), help="default: %(default)s")
    parser.add_argument("--batches", type=numbers, default=[1, 16, 256, 1024], help=f"of at most {HELD_OUT}")
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--top-k", type=numbers, default=[1, 10])
    parser.add_argument("--repeats", type=int, default=3, help="rounds, at least; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help=f"at most {QUICK_ROWS:,} rows")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE.svg")
    parser.add_argument("--markdown", action="store_true", help="end with the tables of README.md")
    parser.add_argument("--glove", type=pathlib.Path, default=machine.GLOVE, help="made if it is not there")
    parser.add_argument("--worker", default=machine.ENGINE_WORKER)
    options = parser.parse_args()

    cells = []
    for name in options.sets.split(","):
        path = machine.glove(options.glove) if name.startswith("glove") else None
        rows = sets.SETS[name](path, QUICK_ROWS if options.quick else sys.maxsize)
        bench = Bench(name, rows, options.worker, max(options.top_k))
        if not cells:
            described = machine.describe(versions() | {"oneDNN": bench.worker.info["onednn"]})
            print(described)
        print(f"\n{bench.describe()}\n{report.Cell.HEADER}", flush=True)
        for threads in options.threads:
            for top_k in options.top_k:
                for batch in options.batches:
                    cells.append(bench.measure(batch, threads, top_k, options.repeats))
                    print(cells[-1], flush=True)
        print(bench.agreement(), flush=True)
        bench.worker.close()
    if options.plot:
        report.plot(cells, options.plot)
    if options.markdown:
        print("\n" + report.markdown(cells, described))
    return 0


if __name__ == "__main__":
    sys.exit(main())
