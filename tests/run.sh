#!/usr/bin/env bash
# Installs what tests need, builds everything, runs every test, then those that fit under sanitizers, and ends with
# a line "N passed, N failed".
# With --long, attack_test covers a million cases (at most 15 minutes) of which the short run has none: its
# seeds start at FIRST_SEED, or at 2^32; take another one for cases that nobody has run yet. Sanitizers see the
# tests that take minutes under them. And what README.md says of bare machines, images, packages and benchmarks is done (as
# root).
set -uo pipefail
cd "$(dirname "$0")/.."

# Under sanitizers, the planner has no time to find what these expect, and memory and processor time are their own.
unsanitized=*.StructureIsFoundAndUsed:*.ThePlanner*:UnwantedWorkTest.*:*.MemoryOf*
# These take minutes, programs and cases.
slow=:*.EveryFormInOneMessageAndInMany:*.LongOnesShowABar:*.TheBestPairsOfTwoFiles:*.RandomCases:*.FewRowsAndManyHits:*.LargeDims:*.EveryPairOfDtypes:*.AMillion*:*.CallersThatLeave*
slow_asan='|attack_test'
slow_tsan='client_test|collections_test|engine_test|fault_test|lifecycle_test|search_stream_test'
if [[ ${1-} == --long && $# -le 2 && ${2-0} =~ ^[0-9]+$ ]]; then
  attack_from=${2-4294967296}
  slow= slow_asan= slow_tsan=none
elif [[ $# -gt 0 ]]; then
  echo "usage: tests/run.sh [--long [FIRST_SEED]]" >&2
  exit 2
fi

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
if command -v ccache >/dev/null; then
  launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
  export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1 # what was compiled in another clone serves as well
fi
must cmake --preset ci "${launcher[@]}"
must cmake --build --preset ci --parallel "$(nproc)"

# Runs the tests of a build, with what else is given to ctest, and counts them: ctest runs programs; the cases within
# them are counted from what GoogleTest reports.
run_tests() {
  local results=$1/results counts ok bad
  rm -rf "$results"
  mkdir -p "$results"
  GTEST_OUTPUT="xml:$PWD/$results/" ctest --test-dir "$1" --output-on-failure --parallel "$(nproc)" \
    --output-junit results/ctest.xml "${@:2}"
  counts=$(python3 - "$results" <<'PYTHON'
"""Prints "passed failed" over GoogleTest's reports, and ctest's for programs that left none."""
import pathlib, sys
import xml.etree.ElementTree as xml

results = pathlib.Path(sys.argv[1])
cases = {}
for test in xml.parse(results / "ctest.xml").getroot().iter("testcase"):
    cases[test.get("name")] = [test.get("status") == "run"]
for report in results.glob("*.xml"):
    if report.stem != "ctest":
        ran = [case for case in xml.parse(report).getroot().iter("testcase") if case.get("status") == "run"]
        found = [not case.findall("failure") for case in ran]
        crashed = cases.get(report.stem) == [False] and all(found)
        cases[report.stem] = found + [False] * crashed
flat = [ok for found in cases.values() for ok in found]
print(sum(flat), len(flat) - sum(flat))
PYTHON
  ) || counts="0 1"
  read -r ok bad <<<"$counts"
  passed=$((passed + ok))
  failed=$((failed + bad))
}

# Whether sanitizers had nothing to say; shows what they had.
no_reports() {
  [[ -z $(ls "$1") ]] || { tail -n 60 "$1"/*; false; }
}

# Builds under a sanitizer those tests that ctest selects by what else is given, and runs them. What it reports goes to
# files, as the servers and commands that tests start have no other way to be heard.
sanitized() {
  local preset=$1 reports=$PWD/build/$1/reports targets
  echo "== $preset"
  must cmake --preset "$preset" "${launcher[@]}"
  targets=$(ctest --test-dir "build/$preset" --show-only "${@:2}" | grep -o '[a-z0-9_]*_test$')
  # shellcheck disable=SC2086 # words
  must cmake --build --preset "$preset" --parallel "$(nproc)" --target $targets
  rm -rf "$reports"
  mkdir -p "$reports"
  # Debian's libraries are not instrumented: what they do to memory is theirs to order (see tests/tsan.cc).
  ASAN_OPTIONS=log_path=$reports/asan:handle_sigbus=0:quarantine_size_mb=16 \
    UBSAN_OPTIONS=log_path=$reports/ubsan:print_stacktrace=1 \
    TSAN_OPTIONS=log_path=$reports/tsan:suppressions=$PWD/tests/tsan.supp:handle_sigbus=0:ignore_noninstrumented_modules=1 \
    GTEST_FILTER=-$unsanitized$slow run_tests "build/$preset" "${@:2}"
  check "$preset has nothing to report" no_reports "$reports"
}

echo "== tests"
[[ -n ${attack_from-} ]] && export DOTMAX_ATTACK_FROM=$attack_from
run_tests build/ci
unset DOTMAX_ATTACK_FROM
check "mutations of the error bounds" tests/mutation.sh
# Instruction sets are not theirs to tell apart, memory_test measures what they take themselves, and programs of others
# see the same server as ours.
sanitized asan -E "^(engine_test_|memory_test$slow_asan)" -LE outside
sanitized tsan -L threaded -E "^($slow_tsan)"
if [[ -n ${attack_from-} ]]; then
  check "quickstart in a bare root" tests/fresh_root.sh bookworm deploy/quickstart.sh
  check "image" tests/image.sh
  check "packages" tests/package.sh
  check "arm64" tests/arm64.sh
  check "benchmarks of README.md" tests/readme_check.py --benches
fi
check "what mutexes protect" tests/thread_safety.py build/ci
# Versions of clang-format disagree; Debian 12's decides.
[[ $(clang-format --version) != *" 14."* ]] || check "format" bash -c 'git ls-files "*.cc" "*.h" | xargs clang-format --dry-run -Werror'
finish
