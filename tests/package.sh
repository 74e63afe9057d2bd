#!/usr/bin/env bash
# Makes the Debian packages and installs them in a bare root: what they depend on comes along, the service's command
# serves the sample, and removal leaves nothing. Needs root, debootstrap and dpkg-dev; takes some minutes.
# The lines are README.md's. systemd itself does not run there: the unit's command is started as the unit has it.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/serving.sh
. tests/bare_root.sh
need_tool debootstrap
need_tool dpkg-shlibdeps dpkg-dev
fail() {
  echo "FAILED: $*" >&2
  exit 1
}

echo "== packages"
build=$(grep '^cmake .* cpack)$' README.md)
install=$(grep '^apt install .* && systemctl start dotmax$' README.md)
rm -f build/release/*.deb
log=$(mktemp)
(eval "$build") >"$log" 2>&1 || fail "$(tail -n 20 "$log")"
rm -f "$log"
ls -sh build/release/*.deb
dpkg-deb -f build/release/dotmax_*.deb Depends | tr ',' '\n' | grep -q libgrpc++ || fail "the server's libraries are not among its dependencies"

echo "== a bare root"
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
root=$(mktemp -d "${TMPDIR:-/tmp}/dotmax-package.XXXXXX")
server=
cleanup() {
  [[ -z $server ]] || kill "$server" 2>/dev/null || true
  mountpoint -q "$root/proc" && umount "$root/proc"
  grep -q " $root/" /proc/mounts || rm -rf --one-file-system "$root"
}
trap cleanup EXIT
make_bare_root "$suite" "$root"
mount -t proc proc "$root/proc"
mkdir -p "$root/root/build/release"
cp build/release/dotmax_*.deb "$root/root/build/release/"
within=(chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive)
inside() { "${within[@]}" "$@"; }
inside apt-get update >/dev/null
inside bash -c "cd && yes | ${install%% && *}" >"$root/log" 2>&1 || fail "$(tail -n 20 "$root/log")"

echo "== the service's command"
unit=$root/usr/lib/systemd/system/dotmax.service
[[ -e $unit ]] || unit=$root/lib/systemd/system/dotmax.service
words=$(sed -n 's/^ExecStart=//p' "$unit")
# shellcheck disable=SC2016,SC2086 (the shell inside is to expand them; they are words)
"${within[@]}" bash -c 'set -a; . /etc/dotmax/environment; exec "$@"' bash $words --listen=127.0.0.1:0 --metrics-listen= --drain-grace=0s \
  2>"$root/log" &
server=$!
await_ready "$root/log" "$server"
port=$(logged_port "$root/log" grpc_port)
answer=$(inside dotmax search --server="127.0.0.1:$port" --queries=/usr/share/dotmax/sample/glove-10k.npy --words=king --json)
echo "$answer"
[[ $answer == *'"name":"king"'* ]] || fail "king is not its own best match"
kill -TERM "$server"
wait "$server" || fail "the server exits with $?"
server=

echo "== removal"
inside apt-get purge -y dotmax >/dev/null 2>&1
left=$(inside find / -xdev -path /proc -prune -o -name '*dotmax*' -print | grep -v -e '^/root/' -e '^/var/log/' -e '^/log$' || true)
[[ -z $left ]] || fail "left behind: $left"
echo "packages ok"
