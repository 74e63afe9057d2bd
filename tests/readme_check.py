#!/usr/bin/python3
"""Runs what README.md says, with real servers: the Python as it stands, each line of the shell in turn.

  tests/readme_check.py --server build/ci/server/dotmax-server --dotmax build/ci/client/cli/dotmax

C++ is run by install_check.sh, JavaScript by client/node/test/run.sh. The other lines, what takes a machine of its own or
minutes, are each known to run elsewhere (ELSEWHERE). With --benches, those of the benchmarks are run, and nothing else.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import fsum_check
import h5py
import numpy

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
sys.path.insert(0, str(ROOT / "client/python"))
import dotmax  # noqa: E402

# How lines begin that are neither of these languages, and what runs them. None has a line that is not in README.md.
BENCHES = "readme_check.py --benches"
ELSEWHERE = {
    "$ deploy/quickstart.sh": "fresh_root.sh",
    "$ dotmax search ": "here",
    "$ tests/run.sh": "itself",
    "docker build ": "image.sh",
    "docker run ": "image.sh",
    "docker compose ": "manifests_check.sh",
    "cmake --preset release ": "package.sh",
    "apt install ": "package.sh",
    "kubectl apply ": "manifests_check.sh",
    "deploy/install-deps.sh bench": BENCHES,
    "cmake --preset ci ": BENCHES,
    "tests/bench/": BENCHES,
    "score = torch.max": "questions.py",
    "scores = [torch.max": "questions.py",
}


def require(condition, what):
    if not condition:
        sys.exit(f"readme_check.py: {what}")


def blocks(language):
    return [text for of, text in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S) if of == language]


def commands():
    """What is in blocks of no language: commands and what they print, (start of a line in ELSEWHERE, line)."""
    found = []
    for block in blocks(""):
        printed = False
        for line in block.splitlines():
            # A prompt means that there is output, too.
            printed = (printed or block.startswith("$ ")) and not line.startswith("$ ")
            if not printed:
                start = [start for start in ELSEWHERE if line.startswith(start)]
                require(len(start) == 1, f"nothing is known to run: {line}")
                found.append((start[0], line))
    require({start for start, _ in found} == ELSEWHERE.keys(), "lines are gone")
    return found


def benches():
    """As they stand, but for the picture, which goes elsewhere."""
    with tempfile.TemporaryDirectory() as directory:
        for start, line in commands():
            if ELSEWHERE[start] == BENCHES:
                line = line.replace("tests/bench/peers.svg", f"{directory}/peers.svg")
                print(f"$ {line}", flush=True)
                subprocess.run(["bash", "-c", line], cwd=ROOT, check=True)


def python(address):
    """All blocks in one namespace, as somebody would who reads on."""
    random = numpy.random.default_rng(1)
    A, B = (random.standard_normal((rows, 8)).astype(numpy.float32) for rows in (20, 30))
    names = {"A": A, "B": B, "pairs": [(A[:5], B[:7]), (A[5:], B[7:])]}
    found = blocks("python")
    require(len(found) >= 5, "the blocks of Python are gone")
    for block in found:
        exec(compile(block.replace("localhost:50051", address), "README.md", "exec"), names)  # noqa: S102
    scores = A.astype(float) @ B.T.astype(float)
    require(names["result"].ids.shape == (16, 10), "the first example's shape")
    best, (i, j) = names["best"], numpy.unravel_index(scores.argmax(), scores.shape)
    require((best.query_row, best.id) == (i, j) and abs(best.score - scores.max()) < 1e-9, f"{best} for {i}, {j}")
    require((names["i"], names["j"]) == (i, j), "the loops find another pair")
    require(names["ids"].tolist() == scores.argmax(axis=1).tolist(), "the best rows of each")
    right = [scores[:5, :7].max(), scores[5:, 7:].max()]
    require(numpy.allclose(names["scores"], right), f"pairs: {names['scores']} for {right}")
    names["client"].close()


def prepare(directory):
    """The files that the commands name."""
    random = numpy.random.default_rng(2)
    for name, rows in {"words": 200, "queries": 9, "a": 20, "b": 30, "vectors": 50}.items():
        numpy.save(directory / f"{name}.npy", random.standard_normal((rows, 3)).astype(numpy.float32))
    pixels = random.integers(0, 256, (100, 4)).astype(numpy.uint8)
    (directory / "images.u8bin").write_bytes(numpy.array(pixels.shape, "<u4").tobytes() + pixels.tobytes())
    train, test = numpy.load(directory / "words.npy"), numpy.load(directory / "queries.npy")
    with h5py.File(directory / "set.hdf5", "w") as made:
        made["train"], made["test"] = train, test
        made["neighbors"] = numpy.argsort(-(test @ train.T), axis=1)[:, :10]
        made.attrs["distance"] = "ip"
    shutil.copytree(ROOT / "client/python", directory / "client/python", ignore=shutil.ignore_patterns("build", "*.egg-info"))


def shell(options, directory):
    prepare(directory)
    server, port = fsum_check.start(
        options.server, None, f"--matrix=words={directory}/words.npy", f"--data-dir={directory}", "--threads=1"
    )
    commands = directory / "bin"
    commands.mkdir()
    (commands / "dotmax").symlink_to(options.dotmax)
    environment = {
        **os.environ,
        "PATH": f"{commands}:/usr/bin:/bin",
        "DOTMAX_SERVER": f"127.0.0.1:{port}",
        "PIP_NO_INDEX": "1",
    }
    environment.pop("PYTHONPATH", None)
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    require(len(lines) >= 14, "the commands are gone")
    try:
        for line in lines:
            if line.startswith("dotmax-server "):
                words = line.split()[1:]
                require(words[-1].startswith("--listen="), line)
                own, _ = fsum_check.start(options.server, None, *words[:-1], cwd=directory)
                own.terminate()
                require(own.wait(timeout=60) == 0, line)
                continue
            ran = subprocess.run(["bash", "-c", line], cwd=directory, env=environment, capture_output=True, text=True)
            require(ran.returncode == 0, f"{line}\n{ran.stdout}{ran.stderr}")
    finally:
        server.terminate()
        server.wait(timeout=60)
    require((directory / "base.fbin").stat().st_size == 8 + 200 * 3 * 4, "convert")
    require(len(numpy.load(directory / "hits.npy")) > 0, "--output")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default=ROOT / "build/ci/server/dotmax-server", type=os.path.abspath)
    parser.add_argument("--dotmax", default=ROOT / "build/ci/client/cli/dotmax", type=os.path.abspath)
    parser.add_argument("--benches", action="store_true")
    options = parser.parse_args()
    if options.benches:
        benches()
        return
    commands()
    for path in re.findall(r"(?<![\w/.-])(?:deploy|tests|client|proto|server)/[\w./-]*\w", README):
        require((ROOT / path).exists(), f"there is no {path}")
    server, port = fsum_check.start(options.server, ROOT / "deploy/sample/glove-10k.npy", "--threads=1")
    try:
        python(f"127.0.0.1:{port}")
        # What README.md shows of the sample.
        command = re.search(r"^\$ dotmax (search .*)$", README, re.M)[1].split()
        shown = re.search(r"^query  rank.*?(?=^```)", README, re.M | re.S)[0]
        ran = subprocess.run(
            [options.dotmax, *command, f"--server=127.0.0.1:{port}"], cwd=ROOT, capture_output=True, text=True
        )
        require(ran.stdout == shown, f"the words' neighbours are\n{ran.stdout}{ran.stderr}")
    finally:
        server.terminate()
        server.wait(timeout=60)
    with tempfile.TemporaryDirectory() as directory:
        shell(options, pathlib.Path(directory))
    print("README.md does what it says")


if __name__ == "__main__":
    main()
