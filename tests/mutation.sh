#!/usr/bin/env bash
# Tests the tests of the error bounds: leaves out one Term(...) of server/engine after the other, and fails unless
# some test then fails (and none does while all terms are in). Takes a minute or two besides its own build.
set -euo pipefail
cd "$(dirname "$0")/.."

build=build/mutation
launcher=()
command -v ccache >/dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DDOTMAX_MUTATIONS=ON "${launcher[@]}" >/dev/null
cmake --build "$build" --target mutation_tests --parallel "$(nproc)"

# The quick tests, until one fails.
run_tests() {
  "$build/tests/mutation_tests" --gtest_fail_fast --gtest_brief=1 \
    --gtest_filter='BoundTest.*:DeflationTest.*:ExactTest.*:MeasureTest.*:QuantizeTest.*:SpreadTest.*:EngineTest.RandomCases:EngineTest.*Axis*:EngineTest.*Underflow*:Pivot*'
}

# Prints who noticed that term $1 was dropped.
drop() {
  local output
  if output=$(DOTMAX_DROP_TERM=$1 run_tests 2>&1); then
    echo "NOT NOTICED: $1"
    return 1
  fi
  echo "$1: $(grep -m 1 -o '[A-Za-z]*Test\.[A-Za-z0-9]*' <<<"$output" || echo crashed)"
}
export -f run_tests drop
export build

run_tests
# A name may be on the line after its "Term(".
terms=$(cat server/engine/*.{h,cc} | tr '\n' ' ' | grep -oP '\bTerm\(\s*"\K[^"]+' | sort -u)
echo "$(wc -l <<<"$terms") terms"
tr '\n' '\0' <<<"$terms" | xargs -0 -P "$(nproc)" -I{} bash -c 'drop "$1"' _ {}
