#!/bin/sh
# Compares segue-edge with nginx, Varnish, Traffic Server and Squid, side by side. Arguments go to `bench run`.
set -eu
cd "$(dirname "$0")/../.."
tools/debian.sh tools/debian-bench.txt
mkdir -p bin
go build -trimpath -ldflags "-s -w" -o bin/segue-edge ./cmd/segue-edge
go build -o bin/bench ./tools/bench
ulimit -n "$(ulimit -Hn)" # 10,000 connections have two ends
exec bin/bench run "$@"
