#!/usr/bin/env bash
# Installs what tests need, builds everything, runs every test, and ends with a line "N passed, N failed".
# With --long, attack_test covers a million cases (at most 15 minutes) of which the short run has none: its
# seeds start at FIRST_SEED, or at 2^32; take another one for cases that nobody has run yet.
set -uo pipefail
cd "$(dirname "$0")/.."

if [[ ${1-} == --long && $# -le 2 && ${2-0} =~ ^[0-9]+$ ]]; then
  export DOTMAX_ATTACK_FROM=${2-4294967296}
elif [[ $# -gt 0 ]]; then
  echo "usage: tests/run.sh [--long [FIRST_SEED]]" >&2
  exit 2
fi

build=build/ci
passed=0
failed=0

finish() {
  echo
  echo "$passed passed, $failed failed"
  [[ $failed -eq 0 ]]
  exit
}

# Counts one check that is a command.
check() {
  local name=$1
  shift
  echo "== $name"
  if "$@"; then
    passed=$((passed + 1))
  else
    echo "FAILED: $name"
    failed=$((failed + 1))
  fi
}

# What cannot be built cannot be tested.
must() {
  "$@" && return
  echo "FAILED: $*"
  failed=$((failed + 1))
  finish
}

echo "== packages"
must deploy/install-deps.sh test
echo "== build"
launcher=()
command -v ccache >/dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
must cmake --preset ci "${launcher[@]}"
must cmake --build --preset ci --parallel "$(nproc)"

echo "== tests"
# ctest runs programs; the cases within them are counted from what GoogleTest reports.
export GTEST_OUTPUT="xml:$PWD/$build/results/"
rm -rf "$build/results"
mkdir -p "$build/results"
ctest --test-dir "$build" --output-on-failure --parallel "$(nproc)" --output-junit results/ctest.xml
counts=$(python3 - "$build/results" <<'PYTHON'
"""Prints "passed failed" over GoogleTest's reports, and ctest's for programs that left none."""
import pathlib, sys
import xml.etree.ElementTree as xml

results = pathlib.Path(sys.argv[1])
cases = {}
for test in xml.parse(results / "ctest.xml").getroot().iter("testcase"):
    cases[test.get("name")] = [test.get("status") == "run"]
for report in results.glob("*.xml"):
    if report.stem != "ctest":
        found = [not case.findall("failure") for case in xml.parse(report).getroot().iter("testcase")]
        crashed = cases.get(report.stem) == [False] and all(found)
        cases[report.stem] = found + [False] * crashed
flat = [ok for found in cases.values() for ok in found]
print(sum(flat), len(flat) - sum(flat))
PYTHON
) || counts="0 1"
read -r ok bad <<<"$counts"
passed=$((passed + ok))
failed=$((failed + bad))

check "mutations of the error bounds" env -u GTEST_OUTPUT tests/mutation.sh
# Versions of clang-format disagree; Debian 12's decides.
[[ $(clang-format --version) != *" 14."* ]] || check "format" bash -c 'git ls-files "*.cc" "*.h" | xargs clang-format --dry-run -Werror'
finish
