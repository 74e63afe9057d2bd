#!/usr/bin/env bash
# Runs a command of the committed tree in a bare Debian root, made for it and deleted afterwards:
#
#   tests/fresh_root.sh SUITE COMMAND [ARGUMENT ...]
#   tests/fresh_root.sh bookworm deploy/quickstart.sh
#   tests/fresh_root.sh trixie tests/run.sh
#
# Needs root and debootstrap. The mirror, proxies and certificates are those of this machine.
set -euo pipefail

if [[ $# -lt 2 ]]; then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
suite=$1
shift
tree=$(cd "$(dirname "$0")/.." && git rev-parse --show-toplevel)
. "$tree/tests/bare_root.sh"
root=$(mktemp -d "${TMPDIR:-/tmp}/dotmax-root.XXXXXX")

cleanup() {
  for mounted in dev/pts dev sys proc; do
    mountpoint -q "$root/$mounted" && umount "$root/$mounted"
  done
  # Never through a mount that would not go away.
  if grep -q " $root/" /proc/mounts; then
    echo "something is still mounted below $root; it was left as it is" >&2
  else
    rm -rf --one-file-system "$root"
  fi
}
trap cleanup EXIT

echo "== debootstrap $suite"
make_bare_root "$suite" "$root"
echo "deb $(mirror_of_this_machine) $suite main" >"$root/etc/apt/sources.list"
for file in /etc/resolv.conf /etc/hosts; do
  [[ -e $file ]] && cp -L "$file" "$root$file"
done
mount -t proc proc "$root/proc"
mount -t sysfs sys "$root/sys"
mount --bind /dev "$root/dev"
mount --bind /dev/pts "$root/dev/pts"
git clone -q "$tree" "$root/root/dotmax"

echo "== $*"
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
  ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
  chroot "$root" bash -c 'cd /root/dotmax && exec "$@"' bash "$@"
