#!/usr/bin/env bash
# Compiles the server and the command for arm64, with Debian's cross compiler and its libraries for arm64, and runs both under
# emulation: the server serves the sample, and the command finds in it what README.md shows. Needs root; takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/serving.sh
. tests/bare_root.sh
need_tool debootstrap
need_tool aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
need_tool qemu-aarch64-static qemu-user-static
build=build/arm64
system=$PWD/$build/system
server=
trap '[[ -z $server ]] || kill "$server" 2>/dev/null || true' EXIT

if [[ ! -e $system/unpacked ]]; then
  echo "== libraries"
  rm -rf "$system"
  mkdir -p "$system.packages"
  # Those that compiling needs here, for there: fetched by debootstrap, with what they need.
  libraries=$(sed -n '/^build=(/,/)/p' deploy/install-deps.sh | grep -oE '[a-z0-9+-]+-dev|protobuf[a-z-]*' | paste -sd,)
  make_bare_root "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$system.packages" --arch=arm64 --foreign \
    --include="$libraries"
  mkdir "$system"
  for package in "$system.packages"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$system"; done
  rm -rf --one-file-system "$system.packages"
  touch "$system/unpacked"
fi

echo "== build"
cat >"$build/toolchain.cmake" <<TOOLCHAIN
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_SYSROOT $system)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
TOOLCHAIN
export PKG_CONFIG_LIBDIR=$system/usr/lib/aarch64-linux-gnu/pkgconfig:$system/usr/share/pkgconfig PKG_CONFIG_SYSROOT_DIR=$system
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DDOTMAX_WERROR=ON -DDOTMAX_TESTS=OFF \
  -DCMAKE_TOOLCHAIN_FILE="$PWD/$build/toolchain.cmake" >"$build/log" || { tail -n 20 "$build/log"; exit 1; }
cmake --build "$build" --parallel "$(nproc)" --target dotmax-server dotmax

question=(search --queries=deploy/sample/glove-10k.npy --words=king,piano --metric=cosine --top-k=4 --table)
expected=$(sed -n '/^query  rank/,/^```/p' README.md | grep -v '```')
for cpu in max cortex-a72; do # with SVE, and without
  echo "== run, $cpu"
  emulated=(qemu-aarch64-static -cpu "$cpu" -L "$system")
  "${emulated[@]}" "$build/server/dotmax-server" --matrix=deploy/sample/glove-10k.npy --listen=127.0.0.1:0 --metrics-listen= \
    2>"$build/log" &
  server=$!
  await_ready "$build/log" "$server" 300 # emulated vectors are slow
  grep -o '"float32_kernel.*"simd":"[^"]*"' "$build/log"
  found=$("${emulated[@]}" "$build/client/cli/dotmax" "${question[@]}" --server="127.0.0.1:$(logged_port "$build/log" grpc_port)")
  [[ $found == "$expected" ]] || { echo "FAILED: $found"; exit 1; }
  kill -TERM "$server"
  wait "$server"
  server=
done
echo "arm64 ok"
