"""What peers.py, questions.py and service.py measure with: an environment that is fair to all, programs that take
commands, clocks, and memory.

To be imported before any library that computes: these choose for themselves what this machine can do, whatever the
environment says. But threads of OpenMP (FAISS, torch) that wait must not spin against OpenBLAS's, which are others; and
an OpenBLAS that is older than the processor, and takes it for a Prescott, is told what it can do.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

for variable in [name for name in os.environ if name.startswith(("OPENBLAS_", "OMP_", "GOMP_"))]:
    del os.environ[variable]
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

CPU = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
WHAT_BLAS_CHOOSES = "import numpy, threadpoolctl; print(threadpoolctl.threadpool_info()[0]['architecture'])"
if subprocess.check_output([sys.executable, "-c", WHAT_BLAS_CHOOSES], text=True).strip() == "Prescott":
    kernels = {" avx2 ": "Haswell", " avx512bw ": "SkylakeX"}  # the last that this machine has
    os.environ.update({"OPENBLAS_CORETYPE": core for flag, core in kernels.items() if flag in CPU})

import numpy  # noqa: E402
import threadpoolctl  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
GLOVE = ROOT / "build/glove.npy"
ENGINE_WORKER = ROOT / "build/ci/tests/bench/engine_worker"
IDLE_SECONDS = 0.03  # until OpenBLAS's threads stop spinning


def seconds(run, *arguments):
    start = time.perf_counter()
    result = run(*arguments)
    return time.perf_counter() - start, result


class Memory:
    """What a process has resident."""

    def __init__(self, pid):
        self.process = pathlib.Path(f"/proc/{pid}")
        self.held = self._field("VmRSS")  # bytes, by now

    def forget_peak(self):
        (self.process / "clear_refs").write_text("5", encoding="ascii")

    def peak(self):
        """The most bytes since forget_peak."""
        return self._field("VmHWM")

    def growth(self):
        """By how much the peak exceeds what was held at first."""
        return max(0, self.peak() - self.held)

    def _field(self, name):
        for line in (self.process / "status").read_text(encoding="ascii").splitlines():
            if line.startswith(name + ":"):
                return 1024 * int(line.split()[1])
        raise LookupError(name)


class Worker:
    """A program that has loaded two matrices, and answers lines with lines of JSON: engine_worker, rivals.py."""

    def __init__(self, program, base, queries, *flags):
        self.program = pathlib.Path(program).name
        with tempfile.TemporaryDirectory() as directory:
            paths = [os.path.join(directory, name) for name in ("base.npy", "queries.npy")]
            for path, rows in zip(paths, (base, queries)):
                numpy.save(path, rows)
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self.process = subprocess.Popen([program, *map(str, flags), *paths], **pipes, text=True, bufsize=1)
            self.info = self._reply()
        self.memory = Memory(self.process.pid)

    def ask(self, *words):
        print(*words, file=self.process.stdin)
        return self._reply()

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def _reply(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.program} has ended")
        return json.loads(line)


def describe(versions):
    """One line: what is compared, on what. `versions` by name, of what else there is than numpy and its BLAS."""
    blas = {
        f"{pool['internal_api']} {pool['version']} ({pool['architecture']})"
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    }
    cpu = next((line.partition(": ")[2] for line in CPU.splitlines() if line.startswith("model name")), "unknown CPU")
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{os.cpu_count()} cores of {cpu}; {libraries}; BLAS: {', '.join(sorted(blas))}"


def glove(path):
    """`path`, made if it is not there."""
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        subprocess.run([ROOT / "deploy/sample/make_sample.py", "--full", path], check=True)
    return path
