#!/usr/bin/env python3
"""Has clang look at whatever is protected by mutexes: what is annotated (ABSL_GUARDED_BY, ...) is only used under its
mutex. Reads the compile commands of a build, and compiles nothing.

  tests/thread_safety.py build/ci
"""

import json
import multiprocessing.pool
import os
import pathlib
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = ["-fsyntax-only", "-Wno-everything", "-Wthread-safety", "-Wthread-safety-beta", "-Werror"]


def check(command):
    words = shlex.split(command["command"])
    kept = [word for word in words if word.startswith(("-I", "-D", "-std", "-m"))]
    system = [pair for word, path in zip(words, words[1:]) if word == "-isystem" for pair in (word, path)]
    return subprocess.run(
        ["clang++", *FLAGS, *kept, *system, command["file"]], cwd=command["directory"], capture_output=True, text=True
    )


def main():
    commands = json.loads(pathlib.Path(sys.argv[1], "compile_commands.json").read_text())
    ours = [c for c in commands if pathlib.Path(c["file"]).is_relative_to(ROOT) and "/proto/" not in c["file"]]
    ours = [c for c in ours if pathlib.Path(c["file"]).relative_to(ROOT).parts[0] in ("server", "client")]
    unique = {c["file"]: c for c in ours}.values()
    results = multiprocessing.pool.ThreadPool(os.cpu_count()).map(check, unique)
    bad = [r for r in results if r.returncode != 0]
    for result in bad:
        print(result.stderr, file=sys.stderr)
    print(f"{len(results)} files, {len(bad)} with warnings")
    sys.exit(1 if bad or not results else 0)


main()
