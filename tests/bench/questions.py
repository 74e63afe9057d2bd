#!/usr/bin/python3
"""dotmax on every form of the question, beside what people would write otherwise, and beside its own plain question.

  deploy/install-deps.sh bench
  cmake --preset ci && cmake --build --preset ci --target engine_worker dotmax-server
  tests/bench/questions.py                 the tables of README.md
  tests/bench/questions.py --pairs 1000 --repeats 3 --only pairs

Three parts, each with programs in turn (a round) that are given the same numbers and the same number of threads; a time
is the median of the rounds.

matrices  A, 4,096 x 128, and B, 100,000 x 128, both sent to a server: from the call to the answer as numpy arrays, by
          gRPC on the loopback. The others have A and B in their memory. Plain Python is asked about 16 x 1,000 rows,
          and its time multiplied.
pairs     10,000 pairs of matrices, 100 x 128 and 200 x 128: the engine and the others with all of them in memory, and a
          server that is sent them. torch's loop is given one thread, too, and the better of both counts.
glove     256 queries of peers.py's glove set, the engine alone: metrics, many hits, ranges, the best of all queries.

Memory is by how much a process' peak exceeds what it had, its matrices among it, before it was asked the first time; of
a server, which has no matrices, also the whole process' peak.

Every answer is compared: the same in all rounds, one form's with another's, and ours with float64 or, up to float32's
errors, with the others'.
"""

import argparse
import dataclasses
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import machine  # first: see there

import grpc
import numpy

import report
import sets

sys.path.append(str(machine.ROOT / "tests"))
import fsum_check  # noqa: E402

DIM = 128
A_ROWS, B_ROWS = 4096, 100_000
PYTHON_ROWS = 16, 1000
PYTHON_SHARE = A_ROWS * B_ROWS // (PYTHON_ROWS[0] * PYTHON_ROWS[1])
BLOCK_ROWS = 8192  # of B per message: 4 MB
QUERY_ROWS, BASE_ROWS = 100, 200  # of each pair
PAIRS_PER_MESSAGE = 50  # 8 MB
BATCH = 256
TOP_KS = 1, 10, 100, 1000, 10_000
WIDE_HITS = 100  # per query within the wider range
RIVALS = pathlib.Path(__file__).with_name("rivals.py")
HELD_OUT = 1024  # as peers.py has it
SAMPLE = 16  # queries that are compared with float64
TORCH_MAX = "`torch.max(torch.mm(A, B.T))`"
FLOAT64_ERROR = 1e-11  # of a score, as a share of it and of the largest
FLOAT32_ERROR = 1e-5  # of a score of theirs, as a share of the largest


def require(condition, what):
    if not condition:
        sys.exit(f"questions.py: {what}")


class Server:
    """A dotmax-server that holds next to nothing, its stub, and the modules of its protocol."""

    def __init__(self, program, threads, directory):
        self.protocol, self.matrix = fsum_check.generated(directory)
        plugin = f"--plugin=protoc-gen-grpc={shutil.which('grpc_python_plugin')}"
        protos = [f"--proto_path={fsum_check.PROTOS}", "dotmax/v1/dotmax.proto"]
        subprocess.run(["protoc", plugin, f"--grpc_out={directory}", *protos], check=True)
        from dotmax.v1 import dotmax_pb2_grpc

        tiny = pathlib.Path(directory) / "tiny.npy"
        numpy.save(tiny, numpy.ones((1, DIM), numpy.float32))
        self.process, port = fsum_check.start(program, tiny, f"--threads={threads}")
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.stub = dotmax_pb2_grpc.DotmaxStub(self.channel)
        grpc.channel_ready_future(self.channel).result(timeout=10)
        self.memory = machine.Memory(self.process.pid)

    def close(self):
        self.channel.close()
        self.process.terminate()
        require(self.process.wait(timeout=60) == 0, "dotmax-server failed")

    def as_matrix(self, rows):
        return self.matrix.Matrix(rows=len(rows), dim=rows.shape[1], data=rows.tobytes())

    def best_of_all(self, a, b):
        """The best of all pairs of rows of A and B, sent in one message."""
        reply = self.stub.MaxInnerProduct(
            self.protocol.MaxInnerProductRequest(
                queries=self.as_matrix(a), base=self.as_matrix(b), reduction=self.protocol.GLOBAL
            )
        )
        return numpy.array(reply.scores), numpy.array(reply.ids)

    def best(self, a, b, **asked):
        """The best row of B for each row of A, or for all with `reduction`; B is sent in blocks."""

        def parts():
            part, start = self.protocol.MaxInnerProductStreamRequest, self.protocol.MaxInnerProductRequest
            yield part(start=start(queries=self.as_matrix(a), **asked))
            for first in range(0, len(b), BLOCK_ROWS):
                yield part(base=self.as_matrix(b[first : first + BLOCK_ROWS]))

        reply = self.stub.MaxInnerProductStream(parts())
        return numpy.array(reply.scores), numpy.array(reply.ids)

    def best_of_pairs(self, a, b):
        """The best score of each pair of matrices, and its row of B."""

        def requests():
            for first in range(0, len(a), PAIRS_PER_MESSAGE):
                pairs = zip(a[first : first + PAIRS_PER_MESSAGE], b[first : first + PAIRS_PER_MESSAGE])
                yield self.protocol.BatchMaxInnerProductRequest(
                    pairs=[
                        self.protocol.MatrixPair(queries=self.as_matrix(x), base=self.as_matrix(y)) for x, y in pairs
                    ]
                )

        replies = list(self.stub.BatchMaxInnerProductStream(requests()))
        scores, ids = ([value for reply in replies for value in getattr(reply, name)] for name in ("scores", "ids"))
        return numpy.array(scores), numpy.array(ids)


class Program:
    """One that can be asked the same thing again and again."""

    def __init__(self, run, memory, scale=1):
        """`run` returns seconds, of which there would be `scale` times as many in full, and an answer."""
        self.run, self.memory, self.scale = run, memory, scale
        self.times = []

    @classmethod
    def of_server(cls, server, call, *arguments, **asked):
        def run():
            taken, (scores, ids) = machine.seconds(lambda: call(*arguments, **asked))
            return taken, {"scores": scores.tolist(), "ids": ids.tolist()}

        return cls(run, server.memory)

    @classmethod
    def of_worker(cls, worker, *words, scale=1):
        def run():
            reply = worker.ask(*words)
            require("error" not in reply, reply.get("error"))
            return reply.pop("seconds"), reply

        return cls(run, worker.memory, scale)

    def first(self):
        """Asks for the first time, which is not timed; what it takes in memory."""
        self.memory.forget_peak()
        self.answer = self.run()[1]
        self.bytes = self.memory.growth()

    def again(self):
        time.sleep(machine.IDLE_SECONDS)
        taken, answer = self.run()
        for part in ("scores", "ids", "digest", "counts"):
            require(answer.get(part) == self.answer.get(part), "an answer differs from one round to another")
        self.times.append(self.scale * taken)

    def scores(self):
        return numpy.array(self.answer["scores"])

    def ids(self):
        return numpy.array(self.answer["ids"])

    def figure(self):
        return report.Figure(statistics.median(self.times), self.bytes)


def repeat(programs, repeats):
    for _ in range(repeats):
        for program in programs:
            program.again()


@dataclasses.dataclass
class Part:
    """What a part has to tell."""

    versions: dict
    faster: list = dataclasses.field(default_factory=list)  # beside others
    costs: list = dataclasses.field(default_factory=list)  # beside the plain question
    notes: list = dataclasses.field(default_factory=list)


def agree(ours, theirs):
    """Scores, up to float32's errors."""
    return numpy.abs(numpy.subtract(ours, theirs)).max() <= FLOAT32_ERROR * numpy.abs(ours).max()


def matrices(options):
    """A and B, sent to a server."""
    a = sets.noise(A_ROWS, DIM)
    b = sets.noise(A_ROWS + B_ROWS, DIM)[A_ROWS:]
    few_a, few_b = a[: PYTHON_ROWS[0]], b[: PYTHON_ROWS[1]]
    rivals = machine.Worker(RIVALS, b, a)
    slow = machine.Worker(RIVALS, few_b, few_a)
    with tempfile.TemporaryDirectory() as directory:
        server = Server(options.server, options.threads, directory)
        by_row = Program.of_server(server, server.best, a, b)
        streamed = Program.of_server(server, server.best, a, b, reduction=server.protocol.GLOBAL)
        at_once = Program.of_server(server, server.best_of_all, a, b)
        names = ("numpy", "numpy_blocks", "torch", "torch_global")
        others = [Program.of_worker(rivals, name, options.threads) for name in names]
        python = Program.of_worker(slow, "python", options.threads, scale=PYTHON_SHARE)
        for program in (by_row, streamed, at_once, *others, python):
            program.first()
        repeat([by_row, streamed, at_once, *others, python], options.repeats)
        server.close()
    rivals.close()
    slow.close()

    a64, b64 = a[:SAMPLE].astype(float), b.astype(float)
    expected = (a64 @ b64.T).argmax(axis=1)
    require(numpy.array_equal(expected, by_row.ids()[:SAMPLE]), "the stream's ids are not float64's")
    for other in others[:3]:
        require(agree(by_row.scores(), other.scores()), "the stream's scores are not the others'")
    best = by_row.scores().argmax()
    answer = {"scores": [by_row.scores()[best]], "ids": [by_row.ids()[best]]}
    for one in (streamed, at_once):
        require(one.answer == answer, "the best of all is not the best of each row's")
    require(agree(streamed.scores(), others[3].scores()), "the best of all is not torch's")
    require(numpy.isclose(python.scores(), (few_a.astype(float) @ few_b.T.astype(float)).max()), "Python disagrees")

    form = f"best row of B, {B_ROWS:,} × {DIM}, for each row of A, {A_ROWS:,} × {DIM}; both sent to a server"
    numpy_, blocks, torch, torch_max = (other.figure() for other in others)
    python_name = f"loops in Python ({PYTHON_SHARE:,} × {PYTHON_ROWS[0]} × {PYTHON_ROWS[1]:,} rows)"
    whole = server.memory.held + max(by_row.bytes, streamed.bytes)
    all_scores = 4 * A_ROWS * B_ROWS
    return Part(
        faster=[
            report.Comparison(form, by_row.figure(), "numpy: `A @ B.T`, then `argmax`", numpy_, 1),
            report.Comparison("", by_row.figure(), "torch: `mm(A, B.T).max(dim=1)`", torch, 1),
            report.Comparison("", by_row.figure(), "numpy, B in blocks of 8 MB of scores", blocks),
            report.Comparison("best of all pairs of those rows", streamed.figure(), TORCH_MAX, torch_max),
            report.Comparison("the same, sent in one message", at_once.figure(), python_name, python.figure()),
        ],
        notes=[
            f"The server that is sent blocks takes {whole / 1e6:,.0f} MB in all; all scores would take"
            f" {all_scores / 1e6:,.0f} MB."
        ],
        versions=rivals.info,
    )


def pairs(options):
    """Many small pairs."""
    a = sets.noise(options.pairs * QUERY_ROWS, DIM)
    b = sets.noise(options.pairs * (QUERY_ROWS + BASE_ROWS), DIM)[len(a) :]
    worker = machine.Worker(options.worker, b, a, "--pairs")
    rivals = machine.Worker(RIVALS, b, a, "--pairs", QUERY_ROWS, BASE_ROWS)
    with tempfile.TemporaryDirectory() as directory:
        server = Server(options.server, options.threads, directory)
        ours = Program.of_worker(worker, "pairs", options.threads, 1, 0, options.pairs, QUERY_ROWS, BASE_ROWS)
        sent = Program.of_server(
            server, server.best_of_pairs, a.reshape(-1, QUERY_ROWS, DIM), b.reshape(-1, BASE_ROWS, DIM)
        )
        bmm = Program.of_worker(rivals, "torch_bmm", options.threads)
        # Matrices as small as these can be better off with one thread.
        loops = [Program.of_worker(rivals, "torch_loop", threads) for threads in {1, options.threads}]
        for program in (ours, sent, bmm, *loops):
            program.first()
        repeat([ours, sent, bmm, *loops], options.repeats)
        loop = min(loops, key=lambda program: program.figure().seconds)
        server.close()
    worker.close()
    rivals.close()

    require(sent.answer == {name: ours.answer[name] for name in sent.answer}, "the server's pairs are not the engine's")
    for other in (loop, bmm):
        require(agree(ours.scores(), other.scores()), "the best of pairs is not torch's")
    ids, rows = ours.ids(), numpy.array(ours.answer["query_rows"])
    at = numpy.arange(options.pairs)
    best_a, best_b = (part[at * size + row] for part, size, row in ((a, QUERY_ROWS, rows), (b, BASE_ROWS, ids)))
    products = numpy.einsum("ij,ij->i", best_a.astype(float), best_b.astype(float))
    require(numpy.allclose(products, ours.scores(), rtol=1e-12), "the best of pairs is not where it is said to be")

    form = f"best of each of {options.pairs:,} pairs, {QUERY_ROWS} × {DIM} and {BASE_ROWS} × {DIM}"
    loop_name = f"loop of {TORCH_MAX}"
    return Part(
        faster=[
            report.Comparison(f"{form}, by the engine", ours.figure(), loop_name, loop.figure(), 3),
            report.Comparison("", ours.figure(), "`torch.bmm(A, B.mT).amax((1, 2))`", bmm.figure(), 1.2),
            report.Comparison("the same, sent to a server", sent.figure(), loop_name, loop.figure()),
        ],
        versions=rivals.info,
    )


class Collection:
    """GloVe in the engine, and everything that can be asked of it."""

    def __init__(self, options):
        queries, self.base = sets.hold_out(numpy.load(machine.glove(options.glove)), HELD_OUT)
        self.queries, self.threads = queries[:BATCH], options.threads
        # What everything else is compared with, of a program of its own: it leaves much memory behind.
        self.worker = machine.Worker(options.worker, self.base, self.queries)
        _, scores, ids = self.ask(max(TOP_KS))
        self.worker.close()
        self.scores, self.ids = (hits.reshape(BATCH, max(TOP_KS)) for hits in (scores, ids))
        products = self.queries[:SAMPLE].astype(float) @ self.base.T.astype(float)
        self._check(-numpy.sort(-products)[:, : max(TOP_KS)], self.scores[:SAMPLE], "inner products")
        self._check(numpy.take_along_axis(products, self.ids[:SAMPLE], 1), self.scores[:SAMPLE], "inner products")

        self.worker = machine.Worker(options.worker, self.base, self.queries)
        self.rivals = machine.Worker(RIVALS, self.base, self.queries)

    def close(self):
        self.worker.close()
        self.rivals.close()

    def ask(self, top_k, *words):
        """A program whose answer is known but for its ids and scores, and those."""
        words = "search", self.threads, 1, 0, BATCH, top_k, *words
        program = Program.of_worker(self.worker, *words, "quiet")
        program.first()
        shown = self.worker.ask(*words)
        require(shown["digest"] == program.answer["digest"], "an answer differs from one round to another")
        return program, numpy.array(shown["scores"]), numpy.array(shown["ids"])

    def top(self, top_k):
        program, scores, ids = self.ask(top_k)
        require(numpy.array_equal(scores, self.scores[:, :top_k].ravel()), f"the best {top_k} are not those of more")
        require(numpy.array_equal(ids, self.ids[:, :top_k].ravel()), f"the best {top_k} are not those of more")
        return program

    def metrics(self):
        few, every = self.queries[:SAMPLE].astype(float), self.base.astype(float)
        squares = [(rows**2).sum(axis=1) for rows in (few, every)]
        products = few @ every.T
        cosine, scores, _ = self.ask(1, 1)
        self._check((products / numpy.sqrt(numpy.outer(*squares))).max(axis=1), scores[:SAMPLE], "cosines")
        distance, scores, ids = self.ask(1, 2)
        expected = squares[0][:, None] - 2 * products + squares[1]
        self._check(expected.min(axis=1), scores[:SAMPLE], "distances")
        faiss = Program.of_worker(self.rivals, "faiss_l2", self.threads)
        faiss.first()
        require((faiss.ids() == ids).mean() > 0.99, "nearest rows are not FAISS's")
        return cosine, distance, faiss

    def range(self, hits, *words):
        """Of as many hits per query on average."""
        bound = -numpy.sort(-self.scores, axis=None)[hits * BATCH - 1]
        require(bound > self.scores[:, -1].max(), "a query has more within a range than the most hits")
        within = self.scores >= bound
        program, scores, ids = self.ask(max(TOP_KS), f"bound={float(bound)!r}", *words)
        if "count" in words:
            require(program.answer["counts"] == within.sum(axis=1).tolist(), "counts are wrong")
        else:
            require(numpy.array_equal(scores, self.scores[within]), "a range's scores are wrong")
            require(numpy.array_equal(ids, self.ids[within]), "a range's ids are wrong")
        return program

    def all_together(self, top_k):
        program, scores, ids = self.ask(top_k, "global")
        order = numpy.argsort(-self.scores, axis=None, kind="stable")[:top_k]
        require(numpy.array_equal(scores, self.scores.ravel()[order]), "the best of all queries are not")
        require(numpy.array_equal(ids, self.ids.ravel()[order]), "the best of all queries are not")
        return program

    @staticmethod
    def _check(expected, found, what):
        error = FLOAT64_ERROR * numpy.abs(expected).max()
        require(numpy.allclose(expected, found, rtol=FLOAT64_ERROR, atol=error), f"{what} are wrong")


def glove(options):
    """Everything beside the plain question."""
    collection = Collection(options)
    # In order of the memory that they leave behind.
    cosine, distance, faiss = collection.metrics()
    near = collection.range(1)
    counts = [collection.range(hits, "count") for hits in (1, WIDE_HITS)]
    best, ten_best = (collection.all_together(top_k) for top_k in (1, 10))
    top = {top_k: collection.top(top_k) for top_k in TOP_KS}
    repeat([*top.values(), cosine, distance, faiss, near, *counts, best, ten_best], options.repeats)
    collection.close()

    def beside(form, program, name, other, target=None):
        return report.Comparison(form, program.figure(), name, other.figure(), target)

    rows, dim = collection.base.shape
    costs = [beside("cosine", cosine, "inner product", top[1], 1.25)]
    costs += [beside("squared Euclidean distance", distance, "inner product", top[1], 1.25)]
    costs += [beside(f"top {top_k:,}", top[top_k], "top 1", top[1]) for top_k in TOP_KS[1:]]
    costs += [beside("range, 1 hit per query on average", near, "top 10", top[10], 1)]
    costs += [beside("the same, only counted", counts[0], "top 10", top[10], 1)]
    wide = f"range, {WIDE_HITS} hits per query on average, only counted"
    costs += [beside(wide, counts[1], f"top {WIDE_HITS}", top[WIDE_HITS])]
    costs += [beside("the best of all queries", best, "the best of each", top[1], 1 / 1.5)]
    costs += [beside("the 10 best of all queries", ten_best, "the 10 best of each", top[10], 1 / 1.5)]
    form = f"nearest of {rows:,} × {dim} (GloVe) to each of {BATCH}, by the engine"
    return Part(
        faster=[beside(form, distance, "FAISS `IndexFlatL2`", faiss)],
        costs=costs,
        notes=[
            f"The second table: {rows:,} × {dim} (GloVe), {BATCH} queries, by the engine; top 1 takes"
            f" {top[1].figure().time()}."
        ],
        versions=collection.rivals.info | {"oneDNN": collection.worker.info["onednn"]},
    )


PARTS = {"matrices": matrices, "pairs": pairs, "glove": glove}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="of every program; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; default: %(default)s")
    parser.add_argument("--pairs", type=int, default=10_000, help="each takes 154 kB, twice; default: %(default)s")
    parser.add_argument("--only", choices=PARTS, help="default: all parts")
    parser.add_argument("--glove", type=pathlib.Path, default=machine.GLOVE, help="made if it is not there")
    parser.add_argument("--worker", default=machine.ENGINE_WORKER)
    parser.add_argument("--server", default=machine.ROOT / "build/ci/server/dotmax-server")
    options = parser.parse_args()

    faster, costs, notes, versions = [], [], [], {}
    for name in [options.only] if options.only else PARTS:
        part = PARTS[name](options)
        faster += part.faster
        costs += part.costs
        notes += part.notes
        versions |= part.versions
    print(report.questions(faster, costs, notes, f"{options.threads} thread{'s' * (options.threads > 1)}; {machine.describe(versions)}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
