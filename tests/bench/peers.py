#!/usr/bin/python3
"""dotmax's engine beside FAISS, numpy, torch and plain oneDNN: microseconds per query.

  deploy/install-deps.sh bench && cmake --preset ci && cmake --build --preset ci --target engine_worker
  tests/bench/peers.py                     every set of sets.py, batch size, number of threads and top_k
  tests/bench/peers.py --quick             the same of at most 20,000 rows
  tests/bench/peers.py --sets glove --batches 1,1024 --threads 1 --top-k 10
  tests/bench/peers.py --plot tests/bench/peers.svg --markdown      also the figures of README.md

A round measures ours, then each peer, on the same queries (rows held out of the matrix) and with the same number of
threads, so that all see the same machine; a figure is the median of the rounds: --repeats of them, and more while they
are quick. A round runs small batches eight times, so that all of them find their caches as steady use would leave them.

FAISS is IndexFlatIP, the better of its two paths: its own loop (a) or BLAS (b), forced by its threshold. A path that
needs over twice the other's time for the first 16 queries is not tried in full. numpy and torch are matmul and argmax
(torch: topk, for more than one) of the scores in memory, while they fit 4 GB. All these choose among their kernels for
themselves: variables of OpenBLAS and OpenMP are ignored. "f32" and "int8" are oneDNN's matmul of the same shape alone,
nothing done with the scores: the speed of light. GOPS counts 2·M·N·D operations per search.

Every answer is compared. Ours must be the same in all rounds, and agree with float64 on a sample of the queries. Peers
are float32: where their hit differs, `gap` is by how much its score, in float64, falls short of ours, as a share of
both lengths.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

for variable in [name for name in os.environ if name.startswith(("OPENBLAS_", "OMP_", "GOMP_"))]:
    del os.environ[variable]  # before the libraries load

import faiss  # noqa: E402
import matplotlib  # noqa: E402
import numpy  # noqa: E402
import threadpoolctl  # noqa: E402
import torch  # noqa: E402

import sets  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
HELD_OUT = 1024
QUICK_ROWS = 20_000
SCORE_BYTES = 4 << 30  # that numpy and torch may take
CELL_SECONDS = 2  # rounds are added until a cell has taken so long
MOST_ROUNDS = 15
CALLS_PER_ROUND = 8  # of small batches; at most BATCHED_QUERIES queries in all
BATCHED_QUERIES = 128
TRIAL_QUERIES = 16
SAMPLE = 16  # queries that are compared with float64
IDLE_SECONDS = 0.03  # until threads of OpenMP and OpenBLAS that have nothing to do stop spinning


class Worker:
    """engine_worker on one set."""

    def __init__(self, program, base, queries):
        with tempfile.TemporaryDirectory() as directory:
            paths = [os.path.join(directory, name) for name in ("base.npy", "queries.npy")]
            for path, rows in zip(paths, (base, queries)):
                numpy.save(path, rows)
            self.process = subprocess.Popen(
                [program, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            self.info = self._reply()

    def ask(self, *words):
        print(*words, file=self.process.stdin)
        return self._reply()

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def _reply(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("engine_worker has ended")
        return json.loads(line)


class Peers:
    """What is compared, by name: a function from queries and top_k to ids, best first; or None where it cannot."""

    def __init__(self, base):
        self.base = base
        self.index = faiss.IndexFlatIP(base.shape[1])
        self.index.add(base)
        self.tensor = torch.from_numpy(base)

    def all(self):
        return {"faiss-a": self.loop, "faiss-b": self.blas, "numpy": self.numpy, "torch": self.torch}

    def loop(self, queries, top_k):
        faiss.cvar.distance_compute_blas_threshold = 1 << 30
        return self.index.search(queries, top_k)[1]

    def blas(self, queries, top_k):
        faiss.cvar.distance_compute_blas_threshold = 1
        return self.index.search(queries, top_k)[1]

    def numpy(self, queries, top_k):
        if top_k > 1 or not self.fits(queries):
            return None
        return (queries @ self.base.T).argmax(axis=1)[:, None]  # as fast as max, and tells where

    def torch(self, queries, top_k):
        if not self.fits(queries):
            return None
        scores = torch.mm(torch.from_numpy(queries), self.tensor.T)
        best = scores.max(dim=1, keepdim=True) if top_k == 1 else scores.topk(top_k)
        return best.indices.numpy()

    def fits(self, queries):
        return 4 * len(queries) * len(self.base) <= SCORE_BYTES


def seconds(run, *arguments):
    start = time.perf_counter()
    result = run(*arguments)
    return time.perf_counter() - start, result


def set_threads(threads):
    threadpoolctl.threadpool_limits(limits=threads)
    torch.set_num_threads(threads)


class Set:
    """One set of vectors, in all the programs' memory, and the right answers."""

    def __init__(self, name, rows, program, top_k):
        self.name = name
        self.queries, self.base = sets.hold_out(rows, HELD_OUT)
        self.worker = Worker(program, self.base, self.queries)
        self.info = self.worker.info
        self.peers = Peers(self.base)
        reply = self.worker.ask("search", os.cpu_count(), 1, 0, HELD_OUT, top_k)
        self.ids = numpy.array(reply["ids"]).reshape(HELD_OUT, top_k)
        self.agreed = {peer: [0, 0, 0.0] for peer in ("faiss", "numpy", "torch")}  # hits that agree, all, largest gap
        self.plain = {}  # oneDNN's times, which do not depend on top_k
        self.check_sample(numpy.array(reply["scores"]).reshape(self.ids.shape))

    def check_sample(self, scores):
        """Ends the program unless our ids and scores are float64's, for some queries, up to its rounding."""
        sample = numpy.arange(SAMPLE) * (HELD_OUT // SAMPLE)
        queries = self.queries[sample].astype(numpy.float64)
        theirs = numpy.concatenate([queries @ part.astype(numpy.float64).T for part in self.parts()], axis=1)
        best = -numpy.sort(-theirs, axis=1)[:, : self.ids.shape[1]]
        found = numpy.take_along_axis(theirs, self.ids[sample], axis=1)
        longest = max(numpy.linalg.norm(part, axis=1).max() for part in self.parts())
        tolerance = 1e-13 * longest * numpy.linalg.norm(queries, axis=1, keepdims=True)
        if (abs(found - best) > tolerance).any() or (abs(found - scores[sample]) > tolerance).any():
            sys.exit(f"{self.name}: dotmax disagrees with float64")

    def parts(self):
        return numpy.array_split(self.base, math.ceil(len(self.base) / 10_000))

    def compare(self, peer, ids, first):
        """Counts the hits of the queries from `first` on in which a peer agrees with ours."""
        ours = self.ids[first : first + len(ids), : ids.shape[1]]
        tally = self.agreed[peer]
        tally[0] += int((ids == ours).sum())
        tally[1] += ids.size
        for row, rank in numpy.argwhere(ids != ours):
            query = self.queries[first + row].astype(numpy.float64)
            pair = self.base[[ours[row, rank], ids[row, rank]]].astype(numpy.float64)
            lengths = numpy.linalg.norm(query) * numpy.linalg.norm(pair, axis=1).max()
            tally[2] = max(tally[2], abs(pair @ query @ (1, -1)) / lengths)

    def measure(self, batch, threads, top_k, repeats):
        """One cell: seconds per batch by name, and what our searches of all rounds counted."""
        calls = max(1, min(CALLS_PER_ROUND, BATCHED_QUERIES // batch))
        set_threads(threads)
        contenders = self.peers.all()
        trial = {name: seconds(run, self.queries[: min(batch, TRIAL_QUERIES)], top_k) for name, run in contenders.items()}
        contenders = {name: run for name, run in contenders.items() if trial[name][1] is not None}
        for path, other in (("faiss-a", "faiss-b"), ("faiss-b", "faiss-a")):
            if trial[path][0] > 2 * trial[other][0]:
                contenders.pop(path)
        self.worker.ask("search", threads, 1, 0, batch, top_k)  # compiles its kernels

        times = {name: [] for name in ("dotmax", *contenders)}
        plain = {} if (batch, threads) in self.plain else {"float32": [], "int8": []}
        counts = {name: 0 for name in ("pairs", "screened", "survived", "rescored")}
        started = time.monotonic()
        rounds = 0
        while rounds < repeats or (rounds < MOST_ROUNDS and time.monotonic() - started < CELL_SECONDS):
            first = rounds * calls * batch % (HELD_OUT - calls * batch + 1)
            rounds += 1
            self.pause(threads)
            reply = self.worker.ask("search", threads, calls, first, batch, top_k)
            times["dotmax"].append(reply["seconds"])
            if reply["ids"] != self.ids[first : first + calls * batch, :top_k].ravel().tolist():
                sys.exit(f"{self.name}: dotmax's answers differ from one batch to another")
            for name in ("screened", "survived", "rescored"):
                counts[name] += reply[name]
            counts["pairs"] += calls * batch * len(self.base)
            for kind in plain:
                plain[kind].append(self.worker.ask(kind, threads, calls, first, batch).get("seconds", math.nan))
            for name, run in contenders.items():
                self.pause(threads)
                batches = [self.queries[at : at + batch] for at in range(first, first + calls * batch, batch)]
                took, found = seconds(lambda: [run(queries, top_k) for queries in batches])
                times[name].append(took / calls)
                self.compare(name.split("-")[0], numpy.concatenate(found), first)
        self.plain.setdefault((batch, threads), {kind: statistics.median(taken) for kind, taken in plain.items()})
        medians = {name: statistics.median(taken) for name, taken in times.items()} | self.plain[batch, threads]
        path = min((name for name in medians if name.startswith("faiss")), key=medians.get)
        return Cell(self, batch, threads, top_k, rounds, medians | {"faiss": medians[path]}, path[-1], counts)

    @staticmethod
    def pause(threads):
        if threads > 1:
            time.sleep(IDLE_SECONDS)


class Cell:
    """The figures of one set, batch size, number of threads and top_k."""

    def __init__(self, of, batch, threads, top_k, rounds, taken, faiss_path, counts):
        self.set, self.batch, self.threads, self.top_k, self.rounds = of.name, batch, threads, top_k, rounds
        self.micros = {name: value / batch * 1e6 for name, value in taken.items()}  # per query
        self.faiss_path = faiss_path
        self.ratio = taken["faiss"] / taken["dotmax"]
        self.gops = 2e-9 * batch * of.base.size / taken["dotmax"]
        self.of_int8 = taken["int8"] / taken["dotmax"]
        self.screened = counts["screened"] / counts["pairs"]
        self.survived = counts["survived"] / counts["pairs"]
        self.rescored = counts["rescored"] * len(of.base) / counts["pairs"]  # per query

    HEADER = (
        f"{'threads':>7} {'top':>3} {'batch':>5} {'dotmax':>9} {'FAISS':>11} {'numpy':>9} {'torch':>9} {'f32':>9} {'int8':>9}"
        f" {'FAISS/dotmax':>12} {'GOPS':>6} {'of int8':>7} {'screened':>8} {'survived':>8} {'rescored':>8} {'rounds':>6}"
    )

    def __str__(self):
        return (
            f"{self.threads:7} {self.top_k:3} {self.batch:5} {self.time('dotmax'):>9}"
            f" {self.time('faiss'):>9} {self.faiss_path} {self.time('numpy'):>9} {self.time('torch'):>9}"
            f" {self.time('float32'):>9} {self.time('int8'):>9} {self.ratio:12.1f} {self.gops:6.0f} {self.of_int8:7.0%}"
            f" {self.screened:8.1%} {self.survived:8.3%} {self.rescored:8.1f} {self.rounds:6}"
        )

    def time(self, name):
        micros = self.micros.get(name, math.nan)
        return "-" if math.isnan(micros) else f"{micros:,.{0 if micros >= 100 else 1}f}"


def versions():
    """One line: what is compared, on what."""
    (blas,) = {
        f"{pool['internal_api']} {pool['version']} ({pool['architecture']})"
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    }
    cpu = platform.processor()
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            cpu = line.partition(": ")[2]
            break
    options = faiss.get_compile_options().replace("OPTIMIZE", "").strip().lower()
    return (
        f"{os.cpu_count()} x {cpu}; FAISS {faiss.__version__} ({options}), numpy {numpy.__version__},"
        f" torch {torch.__version__}, all with {blas}"
    )


def markdown(cells, descriptions):
    """The tables of README.md: of the first number of threads and top_k in full, of all as means."""
    batches = sorted({cell.batch for cell in cells})
    head = cells[0]
    out = [
        f"| threads {head.threads}, top {head.top_k} | queries per batch | dotmax | FAISS | numpy | torch |"
        " oneDNN float32 | oneDNN int8 | FAISS / dotmax |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    previous = None
    for cell in cells:
        if (cell.threads, cell.top_k) != (head.threads, head.top_k):
            continue
        times = " | ".join(cell.time(name) for name in ("dotmax", "faiss", "numpy", "torch", "float32", "int8"))
        name = "" if cell.set == previous else descriptions[cell.set]
        out.append(f"| {name} | {cell.batch:,} | {times} | {cell.ratio:.1f} |")
        previous = cell.set
    out += ["", "| FAISS / dotmax, geometric mean of the sets | " + " | ".join(f"{batch:,}" for batch in batches) + " |"]
    out.append("|---|" + "---|" * len(batches))
    for threads, top_k in dict.fromkeys((cell.threads, cell.top_k) for cell in cells):
        means = [
            statistics.geometric_mean(
                cell.ratio for cell in cells if (cell.batch, cell.threads, cell.top_k) == (batch, threads, top_k)
            )
            for batch in batches
        ]
        name = f"{threads} thread{'s' * (threads > 1)}, top {top_k}"
        out.append(f"| {name} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |")
    return "\n".join(out)


def plot(cells, path):
    """Bars of the ratio to FAISS, a group per set, a bar per batch size; of the first number of threads and top_k."""
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "dotmax", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    head = cells[0]
    cells = [cell for cell in cells if (cell.threads, cell.top_k) == (head.threads, head.top_k)]
    names = list(dict.fromkeys(cell.set for cell in cells))
    batches = sorted({cell.batch for cell in cells})
    width = 0.84 / len(batches)
    figure, axes = pyplot.subplots(figsize=(9, 3.2), layout="constrained")
    for place, batch in enumerate(batches):
        ratios = [cell.ratio for cell in cells if cell.batch == batch]
        at = numpy.arange(len(names)) + (place - (len(batches) - 1) / 2) * width
        shade = matplotlib.colormaps["Blues"](0.35 + 0.6 * place / max(1, len(batches) - 1))
        bars = axes.bar(at, ratios, 0.92 * width, color=shade, label=f"{batch:,}")
        axes.bar_label(bars, fmt="%.1f", padding=1, fontsize=7)
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("times as fast as FAISS")
    axes.set_title(f"{head.threads} thread{'s' * (head.threads > 1)}, top {head.top_k}", loc="left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="queries per batch", frameon=False, ncols=len(batches), loc="lower right", bbox_to_anchor=(1, 1))
    figure.savefig(path, metadata={"Date": None})


def glove(path):
    """`path`, made first if it is not there."""
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        subprocess.run([ROOT / "deploy/sample/make_sample.py", "--full", path], check=True)
    return path


def main():
    def numbers(text):
        return [int(word) for word in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(sets.SETS), help="default: %(default)s")
    parser.add_argument("--batches", type=numbers, default=[1, 16, 256, 1024], help="at most 1024")
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--top-k", type=numbers, default=[1, 10])
    parser.add_argument("--repeats", type=int, default=3, help="rounds, at least; default: %(default)s")
    parser.add_argument("--quick", action="store_true", help=f"at most {QUICK_ROWS:,} rows")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE.svg")
    parser.add_argument("--markdown", action="store_true", help="end with the tables of README.md")
    parser.add_argument("--glove", type=pathlib.Path, default=ROOT / "build/glove.npy", help="made if it is not there")
    parser.add_argument("--worker", default=ROOT / "build/ci/tests/bench/engine_worker")
    options = parser.parse_args()

    print(versions())
    cells, descriptions = [], {}
    for name in options.sets.split(","):
        path = glove(options.glove) if name.startswith("glove") else None
        rows = sets.SETS[name](path, QUICK_ROWS if options.quick else sys.maxsize)
        vectors = Set(name, rows, options.worker, max(options.top_k))
        count, dim = vectors.base.shape
        descriptions[name] = f"{name}, {count:,} × {dim}"
        print(
            f"\n{name}: {count:,} x {dim}; {vectors.info['screen']}; {vectors.info['resident_bytes'] / count:.0f} bytes"
            f" per row ({4 * dim} of them the row's own); loaded in {vectors.info['load_seconds']:.1f} s\n{Cell.HEADER}"
        )
        for threads in options.threads:
            for top_k in options.top_k:
                for batch in options.batches:
                    cells.append(vectors.measure(batch, threads, top_k, options.repeats))
                    print(cells[-1], flush=True)
        print(f"{SAMPLE} queries agree with float64. Hits that agree with ours: ", end="")
        print("; ".join(f"{peer} {same:,} of {all_:,}, gap {gap:.0e}" for peer, (same, all_, gap) in vectors.agreed.items()))
        vectors.worker.close()
    if options.plot:
        plot(cells, options.plot)
    if options.markdown:
        print("\n" + markdown(cells, descriptions))
    return 0


if __name__ == "__main__":
    sys.exit(main())
