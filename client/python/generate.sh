#!/usr/bin/env bash
# Makes dotmax/v1 and dotmax/_google_rpc anew from proto/, or below another directory: generate.sh [DIRECTORY]
# What Debian 12's protoc makes is what is committed: modules of a newer one do not load with its runtime.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-$PWD}
protos=../../proto
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

protoc --proto_path="$protos" --python_out="$work" --pyi_out="$work" --grpc_out="$work" \
  --plugin=protoc-gen-grpc="$(command -v grpc_python_plugin)" "$protos"/dotmax/v1/*.proto
protoc --proto_path="$protos" --python_out="$work" --pyi_out="$work" "$protos"/google/rpc/*.proto

# The standard's messages are taken from where an application may have them already: see dotmax/_google_rpc.
sed -i 's/^from google\.rpc import/from dotmax._google_rpc import/' "$work"/dotmax/v1/*.py "$work"/dotmax/v1/*.pyi
rm "$work"/dotmax/v1/matrix_pb2_grpc.py  # no service
mkdir -p "$out/dotmax/v1" "$out/dotmax/_google_rpc"
cp "$work"/dotmax/v1/* "$out/dotmax/v1/"
for name in error_details status; do
  for suffix in py pyi; do cp "$work/google/rpc/${name}_pb2.$suffix" "$out/dotmax/_google_rpc/_${name}_pb2.$suffix"; done
done
echo '"""The wire contract, generated from proto/dotmax/v1."""' >"$out/dotmax/v1/__init__.py"
