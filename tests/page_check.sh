#!/usr/bin/env bash
# The page of the HTTP port in a real headless Chromium: page_check.sh DOTMAX_SERVER DOTMAX DIRECTORY, which gets
# screenshots to look at.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$3"
cp "$here/page_check.mjs" "$3/"
cd "$3"
export npm_config_audit=false npm_config_fund=false npm_config_package_lock=false npm_config_update_notifier=false
[[ -d node_modules/playwright-core ]] || { echo '{"private": true}' >package.json; npm install --silent playwright-core@1; }
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
node page_check.mjs "$browser" "$1" "$2" "$here/../deploy/sample/glove-10k.npy" "$3"
