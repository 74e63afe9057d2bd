#!/usr/bin/env bash
# Installs Debian packages by name: deploy/install-deps.sh build|test|bench
#   build   what compiling the server and the command needs
#   test    the same, and what tests/run.sh needs
#   bench   all that, and what peers.py, questions.py and service.py of tests/bench compare with
# For Debian 12 and 13, as root. Does nothing, and asks nobody, when all of it is there.
set -euo pipefail

# ocl-icd-opencl-dev: Debian 12's oneDNN has a CMake package that looks for OpenCL, though the CPU engine
# does without.
build=(cmake g++ help2man ninja-build
  libabsl-dev libcivetweb-dev libdnnl-dev libgmp-dev libgrpc++-dev libhdf5-dev libhwy-dev libmpfr-dev libprotobuf-dev
  libssl-dev ocl-icd-opencl-dev prometheus-cpp-dev protobuf-compiler protobuf-compiler-grpc)
test=(chromium clang clang-format docker-compose git golang-github-golang-protobuf-1-5-dev golang-go golang-google-genproto-dev
  golang-google-grpc-dev golang-google-protobuf-dev haproxy libbenchmark-dev libgmock-dev libgtest-dev mypy openssl
  pkg-config prometheus protoc-gen-go protoc-gen-go-grpc python3 python3-grpcio python3-h5py python3-numpy python3-pip python3-protobuf
  python3-setuptools python3-tqdm python3-venv python3-wheel ruby-grpc ruby-grpc-tools systemd)
bench=(libopenblas0-pthread python3-faiss python3-matplotlib python3-threadpoolctl python3-torch)
# Others' packages of these conflict with Debian's.
command -v npm >/dev/null || test+=(nodejs npm)
command -v kubectl >/dev/null || test+=(kubernetes-client)

case "${1:-}" in
  build) packages=("${build[@]}") ;;
  test) packages=("${build[@]}" "${test[@]}") ;;
  bench) packages=("${build[@]}" "${test[@]}" "${bench[@]}") ;;
  *)
    echo "usage: deploy/install-deps.sh build|test|bench" >&2
    exit 2
    ;;
esac

installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null | sed -n 's/^installed //p')
missing=()
for package in "${packages[@]}"; do
  grep -qxF "$package" <<<"$installed" || missing+=("$package")
done
[[ ${#missing[@]} -eq 0 ]] && exit 0

if [[ $(id -u) -ne 0 ]]; then
  echo "these packages are missing, and only root can install them: ${missing[*]}" >&2
  exit 1
fi
echo "Installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  exit 1
fi
