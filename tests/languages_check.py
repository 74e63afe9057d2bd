#!/usr/bin/python3
"""Runs client/README.md: generates clients from the protos with Debian's tools, as it says, builds its programs, and asks
a real server; and the list of tests/conformance from Go.

  tests/languages_check.py --server build/ci/server/dotmax-server
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import fsum_check

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFORMANCE = ROOT / "tests/conformance"
DEBIAN_GO = "/usr/share/gocode"  # where Debian's golang-*-dev packages have their sources


def output(words, **options):
    ran = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if ran.returncode != 0:
        sys.exit(f"languages_check.py: {words}:\n{ran.stdout}")
    return ran.stdout


def blocks(language, section):
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", (ROOT / "client/README.md").read_text(), re.M | re.S)[1]
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def go(work, address, conformance):
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": f"{work}", "GOFLAGS": "", "GOCACHE": f"{work}/cache"}
    (work / "src").mkdir()
    output(["bash", "-euc", blocks("sh", "Go")[0]], cwd=ROOT, env=environment)
    environment["GOPATH"] = f"{work}:{DEBIAN_GO}"
    (work / "src/example").mkdir()
    (work / "src/example/main.go").write_text(blocks("go", "Go")[0])
    (work / "src/conformance").mkdir()
    (work / "src/conformance/main.go").write_text((CONFORMANCE / "main.go").read_text())
    for name in ("example", "conformance"):
        output(["go", "vet", name], env=environment)
        output(["go", "build", "-o", str(work / "bin" / name), name], env=environment)
    print(output([str(work / "bin/conformance"), conformance, str(CONFORMANCE / "cases.json")]), end="")
    return output([str(work / "bin/example"), address])


def ruby(work, address):
    (work / "lib").mkdir()
    generate = blocks("sh", "Ruby")[0].replace("--ruby_out=lib --grpc_out=lib", f"--ruby_out={work}/lib --grpc_out={work}/lib")
    output(["bash", "-euc", generate], cwd=ROOT)
    (work / "search.rb").write_text(blocks("ruby", "Ruby")[0])
    return output(["ruby", f"-I{work}/lib", str(work / "search.rb"), address])


def numbers(text):
    return [float(x) for x in re.findall(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", text)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True)
    options = parser.parse_args()
    held = [f"--matrix={path}" for path in CONFORMANCE.glob("*.npy")]
    sample, sample_port = fsum_check.start(options.server, ROOT / "deploy/sample/glove-10k.npy", "--threads=1")
    listed, listed_port = fsum_check.start(options.server, None, *held, f"--data-dir={CONFORMANCE}", "--threads=1")
    try:
        with tempfile.TemporaryDirectory() as directory:
            work = pathlib.Path(directory)
            answers = [
                go(work, f"127.0.0.1:{sample_port}", f"127.0.0.1:{listed_port}"),
                ruby(work, f"127.0.0.1:{sample_port}"),
            ]
    finally:
        for server in (sample, listed):
            server.terminate()
            server.wait(timeout=60)
    print(answers[0], end="")
    if numbers(answers[0]) != numbers(answers[1]) or len(numbers(answers[0])) != 2 * (1 + 3 + 3):
        sys.exit(f"languages_check.py: Go and Ruby disagree:\n{answers[0]}{answers[1]}")


if __name__ == "__main__":
    main()
