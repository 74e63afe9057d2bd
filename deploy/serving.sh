# For scripts that start a dotmax-server whose standard error goes to a file; to be sourced.

# await_ready LOG PID [SECONDS]: until it is ready, or has ended, for 30 seconds at most. Fails, and shows the log, if it
# is not ready.
await_ready() {
  local _
  for _ in $(seq $((${3:-30} * 10))); do
    grep -qs '"event":"ready"' "$1" && return
    kill -0 "$2" 2>/dev/null || break
    sleep 0.1
  done
  echo "the server did not start:" >&2
  cat "$1" >&2
  return 1
}

# logged_port LOG grpc_port|http_port: which port it has taken.
logged_port() { sed -n "s/.*\"event\":\"listening\".*\"$2\":\([0-9]*\).*/\1/p" "$1"; }
