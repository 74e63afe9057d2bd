#!/usr/bin/python3
"""dotmax-server under load, beside its own engine and beside a plain server in Python: what must hold, and what does.

  deploy/install-deps.sh bench
  cmake --preset ci && cmake --build --preset ci --target dotmax dotmax-server engine_worker
  tests/bench/service.py                              the table, in about three minutes
  tests/bench/service.py --only overload --seconds 10

All load is of `dotmax bench`, over the loopback, on peers.py's glove set: queries are rows held out of the matrix, top
1. Servers and client share two cores unless said otherwise. The engine alone is measured in the same run, in turns with
the server, so that both see the same machine; figures are medians of the turns. Where the engine itself differs between
turns, the machine was busy with something else, and the comparison is worth little (a server can even seem to be faster
than its engine): the last line says so.

saturated    4 requests of 256 queries in flight; a server of 1 thread on one core, the client on the other
clients      64 clients with one query each, dotmax and plain_server.py (FAISS, grpcio) with 2 threads; and the same
             of a server that holds 10 rows, where there is nothing to search: what gRPC lets through
latency      one client with one query: what a request takes beyond the search itself
overload     three times as many requests per second as a closed loop gets through, of 64 queries each: with one each,
             two cores would be busy with sending and refusing

Answers are verified: dotmax's by a search of its own, bit for bit; the plain server's ids by dotmax's.
"""

import argparse
import json
import os
import pathlib
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

HELD_OUT = 1024  # as peers.py has it
TURNS = 3
SATURATED_ROWS, SATURATED_REQUESTS = 256, 4
CLIENTS = 64
OVERLOAD = 3  # times the capacity
OVERLOAD_ROWS, OVERLOAD_REQUESTS = 64, 16
OVERLOAD_DEADLINE = "1s"
TINY_ROWS, DIM = 10, 100
CALLS = 8  # of the engine by one command, where one query is searched
SAMPLE = 64  # queries whose ids the plain server and dotmax must agree about
WARMUP_SECONDS = 0.5
BUSY_SHARE = 0.1  # by which the engine's turns may differ
FLAT_PERCENT = 5  # by which memory may grow
PLAIN_SERVER = pathlib.Path(__file__).with_name("plain_server.py")


def require(condition, what):
    if not condition:
        sys.exit(f"service.py: {what}")


class Server:
    """A program that says on standard error where it listens, then that it is ready."""

    def __init__(self, *command):
        self.process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "listening":
                self.event = event
            if event.get("event") == "ready":
                break
        else:
            sys.exit(f"service.py: {command} has ended")
        self.address = f"127.0.0.1:{self.event['grpc_port']}"

    @classmethod
    def of_dotmax(cls, options, matrix, threads, *prefix):
        flags = [f"--matrix={matrix}", f"--threads={threads}", "--listen=127.0.0.1:0", "--metrics-listen="]
        return cls(*prefix, options.server, *flags)

    def resident_bytes(self):
        return machine.Memory(self.process.pid).held

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=60)


class Bench:
    """GloVe: in files, for servers, and in the engine's memory."""

    def __init__(self, options, directory):
        self.options = options
        self.cores = sorted(os.sched_getaffinity(0))[:2]
        require(len(self.cores) == 2, "two cores are needed")
        os.sched_setaffinity(0, self.cores)
        self.queries, base = sets.hold_out(numpy.load(machine.glove(options.glove)), HELD_OUT)
        self.directory = pathlib.Path(directory)
        self.base_path, self.queries_path = self.directory / "glove.npy", self.directory / "queries.npy"
        numpy.save(self.base_path, base)
        numpy.save(self.queries_path, self.queries)
        self.shape = base.shape
        version = subprocess.run([options.server, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
        self.versions = {"dotmax": version.split()[-1]}
        self.notes = []

    def load(self, server, *flags, seconds=None, prefix=()):
        """What `dotmax bench` finds."""
        ran = subprocess.run(self.load_command(server, *flags, seconds=seconds, prefix=prefix), stdout=subprocess.PIPE)
        require(ran.returncode == 0, "dotmax bench failed")
        return json.loads(ran.stdout)

    def load_command(self, server, *flags, seconds=None, prefix=()):
        duration = [f"--duration={seconds or self.options.turn_seconds}s", f"--warmup={WARMUP_SECONDS}s"]
        command = [self.options.dotmax, "bench", "--json", f"--server={server.address}"]
        return [*map(str, [*prefix, *command, f"--queries={self.queries_path}", *duration, *flags])]

    def engine(self, *prefix):
        """The engine alone, which answers engine_worker's commands."""
        program, *flags = [*prefix, self.options.worker]
        base = numpy.load(self.base_path)
        return machine.Worker(program, base, self.queries, *flags)

    def engine_seconds(self, worker, threads, rows):
        """Of a search of so many rows, asked again and again for a turn; a list of them."""
        calls = CALLS if rows == 1 else 1
        times = []
        first = 0
        end = time.monotonic() + self.options.turn_seconds
        while time.monotonic() < end:
            reply = worker.ask("search", threads, calls, first, rows, 1, "quiet")
            times.append(reply["seconds"])
            first = (first + calls * rows) % (HELD_OUT - calls * rows + 1)
        return times

    def engine_median(self, phase, turns):
        """Of the engine's figures; what must be known if they differ is noted."""
        spread = max(turns) / min(turns) - 1
        if spread > BUSY_SHARE:
            differed = f"the engine alone differed by {spread:.0%} between turns"
            self.notes.append(f"{phase}: {differed}, so this is no measurement.")
        return statistics.median(turns)


def saturated(bench):
    server_core, client_core = bench.cores
    on_server, on_client = (["taskset", "-c", str(core)] for core in bench.cores)
    rates, engine_rates = [], []
    worker = bench.engine(*on_server)
    with Server.of_dotmax(bench.options, bench.base_path, 1, *on_server) as server:
        for _ in range(TURNS):
            times = bench.engine_seconds(worker, 1, SATURATED_ROWS)
            engine_rates.append(SATURATED_ROWS / statistics.median(times))
            flags = [f"--rows={SATURATED_ROWS}", f"--concurrency={SATURATED_REQUESTS}"]
            found = bench.load(server, *flags, prefix=on_client)
            require(found["requests"]["failed"] == 0, "a request failed")
            rates.append(found["per_second"]["queries"])
    bench.versions |= {"oneDNN": worker.info["onednn"]}
    worker.close()
    ours, engines = statistics.median(rates), bench.engine_median("saturated", engine_rates)
    what = f"{SATURATED_REQUESTS} requests of {SATURATED_ROWS} queries, server on core {server_core}, client on"
    return [
        report.Target(
            f"{what} {client_core}: queries/s of the server / of the engine, 1 thread",
            f"{ours:,.0f} / {engines:,.0f} = {ours / engines:.2f}",
            ours / engines,
            least=0.9,
        )
    ]


def same_ids(bench, ours, theirs, directory):
    """Asks both for a sample of the queries; ends the program unless they agree, but for float32's ties."""
    protocol, matrix = fsum_check.generated(directory)
    rows = bench.queries[:SAMPLE]
    request = protocol.SearchRequest(
        queries=matrix.Matrix(rows=len(rows), dim=rows.shape[1], data=rows.tobytes()), top_k=1
    )
    ids = []
    for server in (ours, theirs):
        with grpc.insecure_channel(server.address) as channel:
            search = channel.unary_unary(
                "/dotmax.v1.Dotmax/Search", protocol.SearchRequest.SerializeToString, protocol.SearchResponse.FromString
            )
            ids.append(numpy.array(search(request).ids))
    require(len(ids[1]) == SAMPLE and (ids[0] == ids[1]).mean() > 0.95, "the plain server's answers are not dotmax's")


def clients(bench):
    options = bench.options
    closed = f"--concurrency={CLIENTS}"
    tiny = bench.directory / "tiny.npy"
    numpy.save(tiny, sets.noise(TINY_ROWS, DIM))
    worker = bench.engine()
    ours, plain, echo, engine_rates = [], [], [], []
    with (
        Server.of_dotmax(options, bench.base_path, 2) as server,
        Server(PLAIN_SERVER, bench.base_path, 2) as rival,
        Server.of_dotmax(options, tiny, 2) as tiny_server,
        tempfile.TemporaryDirectory() as directory,
    ):
        bench.versions |= rival.event["versions"]
        same_ids(bench, server, rival, directory)
        found = bench.load(server, closed, "--verify=0.1", f"--base={bench.base_path}", seconds=1)
        require(found["verified"]["checked"] > 0, "no answer was verified")
        for _ in range(TURNS):
            times = bench.engine_seconds(worker, 2, CLIENTS)
            engine_rates.append(CLIENTS / statistics.median(times))
            ours.append(bench.load(server, closed))
            plain.append(bench.load(rival, closed))
            echo.append(bench.load(tiny_server, closed))
    worker.close()
    for found in ours + plain + echo:
        require(found["requests"]["failed"] == 0, "a request failed")

    def rate(turns):
        return statistics.median(found["per_second"]["queries"] for found in turns)

    def milliseconds(turns, quantile):
        return 1e3 * statistics.median(found["latency_seconds"][quantile] for found in turns)

    engine = bench.engine_median("clients", engine_rates)
    p99, p50 = milliseconds(ours, "p99"), milliseconds(plain, "p50")
    return [
        report.Target(
            f"{CLIENTS} clients, 1 query each: queries/s of dotmax / of FAISS behind grpcio, 2 threads",
            f"{rate(ours):,.0f} / {rate(plain):,.0f} = {rate(ours) / rate(plain):.1f}",
            rate(ours) / rate(plain),
            least=20,
        ),
        report.Target(
            "the same: dotmax's p99 / the other's p50", f"{p99:.1f} / {p50:.1f} ms = {p99 / p50:.2f}", p99 / p50, most=1
        ),
        report.Target(
            f"the same: queries/s of dotmax / of the engine with {CLIENTS} at once, 2 threads",
            f"{rate(ours):,.0f} / {engine:,.0f} = {rate(ours) / engine:.2f}",
            rate(ours) / engine,
            least=0.6,
        ),
        report.Target(
            f"the same with {TINY_ROWS} rows held, where there is nothing to search: requests/s",
            f"{rate(echo):,.0f}, of which GloVe reaches {rate(ours) / rate(echo):.0%}",
        ),
    ]


def latency(bench):
    rows = []
    worker = bench.engine()
    for threads in (1, 2):
        medians, engine_medians = [], []
        with Server.of_dotmax(bench.options, bench.base_path, threads) as server:
            for _ in range(TURNS):
                engine_medians.append(statistics.median(bench.engine_seconds(worker, threads, 1)))
                medians.append(bench.load(server)["latency_seconds"]["p50"])
        engines = 1e6 * bench.engine_median(f"latency with {threads}", engine_medians)
        ours = 1e6 * statistics.median(medians)
        rows.append(
            report.Target(
                f"1 client, 1 query: median of a request less the engine's, {threads} thread{'s' * (threads > 1)}",
                f"{ours:,.0f} - {engines:,.0f} = {ours - engines:,.0f} µs",
                ours - engines,
                most=150,
                unit=" µs",
            )
        )
    worker.close()
    return rows


def overload(bench):
    rows = f"--rows={OVERLOAD_ROWS}"
    with Server.of_dotmax(bench.options, bench.base_path, 2) as server:
        seconds = bench.options.seconds
        closed = bench.load(server, rows, f"--concurrency={OVERLOAD_REQUESTS}", seconds=2 * bench.options.turn_seconds)
        capacity = closed["per_second"]["requests"]
        rate = round(OVERLOAD * capacity)
        command = bench.load_command(server, rows, f"--rate={rate}", f"--deadline={OVERLOAD_DEADLINE}", seconds=seconds)
        load = subprocess.Popen(command, stdout=subprocess.PIPE)
        memory = []
        for wait in (min(seconds, 2), max(seconds / 2 - 2, 0), seconds / 2):
            time.sleep(wait)
            memory.append(server.resident_bytes())
        found = json.loads(load.communicate()[0])
        require(load.returncode == 0, "dotmax bench failed")

    goodput = found["per_second"]["requests"]
    counts = {error["code"]: error["count"] for error in found["errors"]}
    counts |= {"not sent": found["requests"]["not_sent"]}
    others = sum(count for code, count in counts.items() if code not in ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"))
    refused = [e["latency_seconds"]["p99"] for e in found["errors"] if e["code"] == "RESOURCE_EXHAUSTED"]
    refused_ms = 1e3 * refused[0] if refused else float("nan")
    growth = max(memory) / memory[0] - 1
    shown = [f"{code} {count:,}" for code, count in [("OK", found["requests"]["ok"]), *counts.items()]]
    what = f"{OVERLOAD} times the capacity for {seconds:g} s, {OVERLOAD_ROWS} queries each, due in {OVERLOAD_DEADLINE}"
    return [
        report.Target(
            f"{what}: answers/s / capacity, 2 threads",
            f"{goodput:,.0f} / {capacity:,.0f} = {goodput / capacity:.2f}",
            goodput / capacity,
            least=0.9,
        ),
        report.Target(
            "the same: failures other than RESOURCE_EXHAUSTED and deadlines, and requests not sent",
            f"{others:,} ({', '.join(shown)})",
            others,
            most=0,
        ),
        report.Target(
            "the same: p99 of refusals",
            f"{refused_ms:.1f} ms" if refused else "none refused",
            refused_ms,
            most=10,
            unit=" ms",
        ),
        report.Target(
            "the same: the server's memory at the start, in the middle, at the end",
            ", ".join(f"{held / 1e6:,.0f}" for held in memory) + f" MB: {growth:+.1%}",
            100 * growth,
            most=FLAT_PERCENT,
            unit="%",
        ),
    ]


PHASES = {"saturated": saturated, "clients": clients, "latency": latency, "overload": overload}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PHASES, help="default: all phases")
    parser.add_argument("--seconds", type=float, default=60, help="of the overload; default: %(default)s")
    parser.add_argument("--turn-seconds", type=float, default=2, help="of each other measurement; default: %(default)s")
    parser.add_argument("--glove", type=pathlib.Path, default=machine.GLOVE, help="made if it is not there")
    parser.add_argument("--worker", default=machine.ENGINE_WORKER)
    parser.add_argument("--server", default=machine.ROOT / "build/ci/server/dotmax-server")
    parser.add_argument("--dotmax", default=machine.ROOT / "build/ci/client/cli/dotmax")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(options, directory)
        targets = []
        for name in [options.only] if options.only else PHASES:
            targets += PHASES[name](bench)
    rows, dim = bench.shape
    print(report.service(targets, bench.notes, f"{rows:,} × {dim} (GloVe), {machine.describe(bench.versions)}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
