#!/usr/bin/env bash
# The files of deploy/kubernetes and deploy/compose, as far as that goes without a cluster or Docker:
# manifests_check.sh DOTMAX_SERVER DIRECTORY
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$2"
work=$(cd "$2" && pwd)
cd "$work"
cp "$root/tests/manifests_check.mjs" .
export npm_config_audit=false npm_config_fund=false npm_config_package_lock=false npm_config_update_notifier=false
[[ -d node_modules/@kubernetes-models/prometheus-operator ]] || {
  echo '{"private": true}' >package.json
  npm install --silent js-yaml@5 kubernetes-models@4 @kubernetes-models/prometheus-operator@6
}
node manifests_check.mjs "$root" "$1"

# What README.md has of kubectl, as far as it goes without a cluster.
cd "$root"
while read -r folder; do
  kubectl kustomize "$folder" >"$work/kustomized.yaml"
  grep -q 'kind: Deployment' "$work/kustomized.yaml"
done < <(sed -n 's/^kubectl apply -k //p' README.md; echo deploy/kubernetes/monitoring)
grep -q 'kind: ServiceMonitor' "$work/kustomized.yaml"
cd "$work"

docker-compose -f "$root/deploy/compose/compose.yaml" config >compose.out || { cat compose.out; exit 1; }
grep -q "image: dotmax" compose.out
# As it is mounted there.
mkdir -p prometheus
cp "$root/deploy/monitoring/rules.yml" "$root/deploy/compose/prometheus.yml" prometheus/
sed -i 's|/etc/prometheus/||' prometheus/prometheus.yml
promtool check config prometheus/prometheus.yml
