#!/usr/bin/env bash
# From a clone to the first exact answers, on Debian 12 as root: installs what building needs, builds, serves
# the sample vectors, asks it questions, shows the answers and some metrics, and stops the server.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/serving.sh

build=build/release
sample=deploy/sample/glove-10k.npy
work=$(mktemp -d)
server_pid=

stop_server() {
  [[ -z "$server_pid" ]] && return
  kill "$server_pid" 2>/dev/null || true
  wait "$server_pid" || true
  server_pid=
}
trap 'stop_server; rm -rf "$work"' EXIT

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# Runs a command quietly; shows the end of what it printed only if it fails.
quietly() {
  if ! "$@" >"$work/log" 2>&1; then
    tail -n 30 "$work/log" >&2
    echo "failed: $*" >&2
    exit 1
  fi
}

# The command as a person would type it, then its output.
show() {
  echo "\$ dotmax $*"
  "$build/client/cli/dotmax" "$@"
}

say "1/4 Packages"
deploy/install-deps.sh build

say "2/4 Build (some minutes the first time)"
quietly cmake --preset release
quietly cmake --build --preset release --parallel "$(nproc)"

say "3/4 Server, with 10,000 word vectors"
# Port 0: whatever is free.
"$build/server/dotmax-server" --matrix="$sample" --listen=127.0.0.1:0 --metrics-listen=127.0.0.1:0 \
  2>"$work/server.log" &
server_pid=$!
await_ready "$work/server.log" "$server_pid"
port() { logged_port "$work/server.log" "$1"; }
export DOTMAX_SERVER="127.0.0.1:$(port grpc_port)"
echo "ready on $DOTMAX_SERVER"

say "4/4 Questions"
show health
show info --table
echo
echo "# The most similar rows, for each query vector:"
show search --queries="$sample" --words=king,piano --metric=cosine --top-k=4 --table
echo
echo "# The pairs with the largest inner products, over all query vectors together:"
show search --queries="$sample" --words=king,queen,prince,piano --global --top-k=5 --table
echo
echo "# For scripts:"
show search --queries="$sample" --words=king --top-k=2 --json
echo
echo "# Some of /metrics:"
exec 3<>"/dev/tcp/127.0.0.1/$(port http_port)"
printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3
grep -E '^(grpc_server_handled_total|dotmax_[a-z_]*(pairs|rows)[a-z_]*)[{ ]' <&3 | tr -d '\r'
exec 3<&-

stop_server
say "Done."
cat <<END
The server has stopped. To run it yourself:
  $build/server/dotmax-server --matrix=$sample
and ask, from another terminal:
  $build/client/cli/dotmax search --queries=$sample --words=music --top-k=5
END
