#!/usr/bin/env bash
# Everything about the Node package, in a copy of it: its tests, its types, and what a stranger gets: packed, installed
# into an empty project, where the examples of both README.md run. Needs npm, and DOTMAX_SERVER_BINARY and DOTMAX_BINARY.
set -euo pipefail
cd "$(dirname "$0")/../../.."
root=$PWD
. deploy/serving.sh

work=$(mktemp -d "${TMPDIR:-/tmp}/dotmax-node.XXXXXX")
server=
cleanup() {
  [[ -z $server ]] || kill "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
mkdir -p "$work/client" "$work/stranger"
cp -R proto "$work/"
cp -R client/node "$work/client/"
cp deploy/sample/glove-10k.npy "$work/sample.npy"
export npm_config_audit=false npm_config_fund=false npm_config_package_lock=false npm_config_update_notifier=false

version=$(sed -n 's/^project(dotmax VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
grep -q "\"version\": \"$version\"" client/node/package.json || { echo "package.json is not of version $version"; exit 1; }

export DOTMAX_CONFORMANCE=$PWD/tests/conformance
cd "$work/client/node"
npm install --silent
node --test
npx --no-install tsc --noEmit --strict --skipLibCheck false --target es2022 --module nodenext --lib es2022,dom \
  --types node test/typed.ts

tarball=$(npm pack --silent)
cd "$work/stranger"
npm init --yes >/dev/null
npm install --silent "$work/client/node/$tarball"
[[ -f node_modules/dotmax/proto/dotmax/v1/dotmax.proto && ! -e node_modules/dotmax/test ]] || { ls -R node_modules/dotmax; exit 1; }

"$DOTMAX_SERVER_BINARY" --matrix="$work/sample.npy" --listen=127.0.0.1:0 --metrics-listen= 2>"$work/log" &
server=$!
await_ready "$work/log" "$server"
port=$(logged_port "$work/log" grpc_port)
for readme in "$root/README.md" "$root/client/node/README.md"; do
  sed -n '/^```js$/,/^```$/p' "$readme" | sed "/^\`\`\`/d; s/localhost:50051/127.0.0.1:$port/" >example.mjs
  node example.mjs | tee "$work/said"
done
grep -q "true INVALID_ARGUMENT DIM_MISMATCH" "$work/said"
