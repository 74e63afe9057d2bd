# For scripts that need a bare Debian root; to be sourced. Needs root.

# need_tool PROGRAM [PACKAGE]: installs what is not there.
need_tool() {
  command -v "$1" >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${2:-$1}" >/dev/null
}

mirror_of_this_machine() {
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1
}

# make_bare_root SUITE DIRECTORY [OPTION ...]: by debootstrap, with its options. How this machine reaches its mirror, if it
# takes more than a name, goes with it: proxies and certificates.
make_bare_root() {
  local file
  debootstrap --variant=minbase "${@:3}" "$1" "$2" "$(mirror_of_this_machine)" >"$2.log" 2>&1 || {
    tail -n 20 "$2.log" >&2
    rm -f "$2.log"
    return 1
  }
  rm -f "$2.log"
  for file in $(grep -lriE 'proxy|https?::' /etc/apt/apt.conf /etc/apt/apt.conf.d 2>/dev/null); do
    cp -L "$file" "$2/etc/apt/apt.conf.d/"
  done
  if [[ -e /etc/ssl/certs/ca-certificates.crt ]]; then
    mkdir -p "$2/etc/ssl/certs"
    cp -L /etc/ssl/certs/ca-certificates.crt "$2/etc/ssl/certs/"
  fi
}
