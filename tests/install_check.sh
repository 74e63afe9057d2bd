#!/usr/bin/env bash
# What cmake --install puts where, used as strangers use it: install_check.sh BUILD_DIRECTORY
# The client by find_package and by pkg-config, the programs, man pages, completion, and the service's unit.
set -euo pipefail
build=$(realpath "$1")
cd "$(dirname "$0")/.."
. deploy/serving.sh

work=$(mktemp -d "${TMPDIR:-/tmp}/dotmax-install.XXXXXX")
server=
cleanup() {
  [[ -z $server ]] || kill "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
fail() {
  echo "FAILED: $*" >&2
  exit 1
}

prefix=$work/prefix
cmake --install "$build" --prefix "$prefix" >"$work/log" || fail "$(tail "$work/log")"
for file in bin/dotmax bin/dotmax-server include/dotmax/client.h lib/cmake/dotmax/dotmaxConfig.cmake lib/pkgconfig/dotmax.pc \
  share/dotmax/proto/dotmax/v1/dotmax.proto share/dotmax/proto/google/rpc/status.proto share/dotmax/sample/glove-10k.npy \
  share/man/man1/dotmax.1 share/man/man1/dotmax-search.1 share/man/man8/dotmax-server.8 \
  share/bash-completion/completions/dotmax share/zsh/site-functions/_dotmax lib/systemd/system/dotmax.service; do
  [[ -s $prefix/$file ]] || fail "$file is not there"
done
grep -q "^ExecStart=$prefix/bin/dotmax-server " "$prefix/lib/systemd/system/dotmax.service" || fail "the unit starts something else"
[[ $("$prefix/bin/dotmax" --version) == "dotmax $(sed -n 's/^project(dotmax VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)" ]] ||
  fail "the version is another one"

"$prefix/bin/dotmax-server" --matrix="$prefix/share/dotmax/sample/glove-10k.npy" --listen=127.0.0.1:0 --metrics-listen= \
  2>"$work/log" &
server=$!
await_ready "$work/log" "$server"
address=127.0.0.1:$(logged_port "$work/log" grpc_port)

# README.md's example, with something to see.
mkdir "$work/source"
cp tests/consumer/CMakeLists.txt "$work/source/"
awk '/^```cpp$/ { on = 1; next } /^```$/ { on = 0 } on' README.md | sed "s/localhost:50051/$address/" >"$work/snippet"
{
  grep '^#include' "$work/snippet"
  printf '#include <cstdio>\n#include <vector>\nint main() {\n'
  grep -v '^#include' "$work/snippet"
  echo '  for (size_t h = result->begin(15); h < result->end(15); ++h)
    std::printf("%llu %.17g\n", static_cast<unsigned long long>(result->ids[h]), result->scores[h]);
}'
} >"$work/source/main.cc"
cmake -S "$work/source" -B "$work/consumer" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_CXX_STANDARD=20 >"$work/log" 2>&1 ||
  fail "$(tail "$work/log")"
cmake --build "$work/consumer" >"$work/log" 2>&1 || fail "$(tail "$work/log")"
"$work/consumer/consumer" >"$work/by_cmake"
[[ $(wc -l <"$work/by_cmake") -eq 10 ]] || fail "the consumer prints $(cat "$work/by_cmake")"

# By file, as Debian keeps its packages' files from being asked for in other ways.
flags=$(PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config --cflags --libs dotmax)
# shellcheck disable=SC2086 (they are words)
g++ -o "$work/by_hand" "$work/source/main.cc" $flags || fail "pkg-config's flags: $flags"
"$work/by_hand" | cmp - "$work/by_cmake" || fail "pkg-config's consumer has another answer"

# As a shell would ask: "dotmax se", "dotmax search --metr".
complete() {
  PATH=$prefix/bin:$PATH bash --norc -c '
    compopt() { :; }
    source "$0/share/bash-completion/completions/dotmax"
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _dotmax; echo "${COMPREPLY[@]}"' "$prefix" "$@"
}
[[ $(complete dotmax se) == search ]] || fail "completion of a command: $(complete dotmax se)"
[[ $(complete dotmax search --metr) == "--metric=" ]] || fail "completion of a flag: $(complete dotmax search --metr)"
[[ $(complete dotmax convert "$prefix/inc") == "$prefix/include" ]] || fail "completion of a file"
man -l "$prefix/share/man/man1/dotmax-convert.1" 2>/dev/null | grep -q -- "--round" || [[ ! -x $(command -v man) ]] || fail "man"
echo "installed, found and used"
