#!/usr/bin/env bash
# Builds the image of the Dockerfile for real, without a Docker daemon (buildah, debootstrap; as root), runs it,
# and asks it a question from outside: what README.md has of `docker`, by a docker that is buildah.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/serving.sh
. tests/bare_root.sh

export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
base=$(sed -n 's/^ARG BASE=//p' Dockerfile)
image=localhost/dotmax
work=$(mktemp -d "${TMPDIR:-/tmp}/dotmax-image.XXXXXX")
containers=()
run_pid=
server_pid=

cleanup() {
  [[ -n "$server_pid" ]] && kill "$server_pid" 2>/dev/null
  for mount in proc ""; do
    mountpoint -q "$work/read-only/$mount" && umount "$work/read-only/$mount"
  done
  for container in "${containers[@]}"; do buildah rm "$container" >/dev/null 2>&1 || true; done
  grep -q " $work/" /proc/mounts || rm -rf --one-file-system "$work"
}
trap cleanup EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# What `docker build` and `docker run` do; the latter in $container, on ports that are free instead of those given.
docker() {
  local command=$1 volumes=()
  shift
  if [[ $command == build ]]; then
    buildah bud --pull-never --layers "$@" >"$work/log" 2>&1 || fail "$(tail -n 20 "$work/log")"
    return
  fi
  [[ $command == run ]] || fail "docker $command is not known here"
  while [[ $1 == -* ]]; do
    [[ $1 != -v ]] || volumes+=(--volume "$2")
    shift 2
  done
  [[ localhost/$1 == "$image" ]] || fail "$1 is not the image"
  shift
  [[ $# -gt 0 ]] || set -- "${default[@]}"
  # `buildah run` knows no entrypoint of its own accord.
  buildah run "${volumes[@]}" "$container" -- "${entrypoint[@]}" "$@" --listen=127.0.0.1:0 --metrics-listen=127.0.0.1:0
}

# serve LINE: starts it, and waits until it is ready.
serve() {
  eval "$1" >"$work/out" 2>&1 &
  run_pid=$!
  await_ready "$work/out" "$run_pid"
  port=$(logged_port "$work/out" grpc_port)
  # The server among the descendants.
  server_pid=$run_pid
  while child=$(pgrep -P "$server_pid" | head -n 1) && [[ -n "$child" ]]; do server_pid=$child; done
}

end_server() {
  kill -TERM "$server_pid"
  wait "$run_pid" || fail "the server exited with $?"
  server_pid=
}

need_tool buildah
need_tool debootstrap
[[ -f /etc/containers/policy.json ]] || {
  mkdir -p /etc/containers
  echo '{"default":[{"type":"insecureAcceptAnything"}]}' >/etc/containers/policy.json
}

# The base that the Dockerfile starts from, made here: this must work without a registry.
if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
  echo "== base image"
  make_bare_root bookworm "$work/root"
  rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
  container=$(buildah from scratch)
  containers+=("$container")
  buildah add -q "$container" "$work/root" / >/dev/null
  buildah commit -q "$container" "docker.io/library/$base" >/dev/null
  rm -rf "$work/root"
fi

echo "== build"
mapfile -t lines < <(sed -n '/^```$/,/^```$/ s/^docker \(build\|run\) /&/p' README.md)
[[ ${#lines[@]} -eq 2 && ${lines[0]} == *" && "* ]] || fail "README.md has other lines of docker"
eval "${lines[0]%% && *}"

echo "== run"
container=$(buildah from --pull-never "$image")
containers+=("$container")
format() { buildah inspect --type image --format "$1" "$image"; }
user=$(format '{{.OCIv1.Config.User}}')
[[ -n "$user" && "$user" != root && "$user" != 0* ]] || fail "the image runs as \"$user\""
[[ $(format '{{.Docker.Config.StopSignal}}') == SIGTERM || $(format '{{.OCIv1.Config.StopSignal}}') == SIGTERM ]] ||
  fail "no STOPSIGNAL"
read -r -a entrypoint <<<"$(format '{{range .OCIv1.Config.Entrypoint}}{{.}} {{end}}')"
read -r -a default <<<"$(format '{{range .OCIv1.Config.Cmd}}{{.}} {{end}}')"
serve "${lines[0]#* && }"
uid=$(awk '$1 == "Uid:" { print $2 }' "/proc/$server_pid/status")
[[ $uid == "${user%%:*}" ]] || fail "the server runs as user $uid"

echo "== the health check, inside"
buildah run "$container" -- dotmax health --server="127.0.0.1:$port"
echo "== a question, from outside"
for dotmax in build/ci/client/cli/dotmax build/release/client/cli/dotmax; do [[ -x $dotmax ]] && break; done
[[ -x $dotmax ]] || fail "there is no command to ask with: build it first"
ask() { "$dotmax" search --server="127.0.0.1:$port" --queries=deploy/sample/glove-10k.npy --top-k=1 --words=king --json "$@"; }
answer=$(ask)
echo "$answer"
[[ $answer == *'"name":"king"'* ]] || fail "king is not its own best match"
echo "== SIGTERM"
end_server

echo "== a file of one's own"
mkdir "$work/data"
cp deploy/sample/glove-10k.npy "$work/data/glove.npy"
serve "cd $work/data && ${lines[1]}"
ask --collection=glove >/dev/null
end_server

echo "== a root that nobody can write to, no shell on the way"
mounted=$(buildah mount "$container")
mkdir "$work/read-only"
mount --bind "$mounted" "$work/read-only"
mount -o remount,bind,ro "$work/read-only"
mount -t proc proc "$work/read-only/proc"
touch "$work/read-only/x" 2>/dev/null && fail "the root is not read-only"
chroot --userspec="$user" "$work/read-only" /usr/local/bin/dotmax-server "${default[@]}" --listen=127.0.0.1:0 \
  --metrics-listen=127.0.0.1:0 2>"$work/out" &
server_pid=$!
await_ready "$work/out" "$server_pid"
port=$(logged_port "$work/out" grpc_port)
chroot --userspec="$user" "$work/read-only" /usr/local/bin/dotmax health --server="127.0.0.1:$port" ||
  fail "not serving: $(cat "$work/out")"
kill -TERM "$server_pid"
wait "$server_pid" || fail "the server exited with $?"
server_pid=

echo "== size, labels"
base_container=$(buildah from --pull-never "$base")
containers+=("$base_container")
megabytes() { du -xsm "$1" | cut -f1; }
more=$(($(megabytes "$mounted") - $(megabytes "$(buildah mount "$base_container")")))
echo "$more MB beyond the base"
[[ $more -le 150 ]] || fail "the image has $more MB beyond its base; at most 150 are allowed"
version=$(sed -n 's/^project(dotmax VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
[[ $(format '{{index .OCIv1.Config.Labels "org.opencontainers.image.version"}}') == "$version" ]] ||
  fail "the image says another version"
echo "image ok"
