#!/bin/sh
# Makes cmd/segue-edge/default.pgo: a CPU profile of the edge under the loads of the comparison, hits and misses, which
# the compiler reads at every later build.
set -eu
cd "$(dirname "$0")/../.."
tools/debian.sh tools/debian-bench.txt
mkdir -p bin
go build -pgo=off -o bin/segue-edge-pgo ./cmd/segue-edge
go build -o bin/bench ./tools/bench
ulimit -n "$(ulimit -Hn)"
origin=127.0.0.1:9480 edge=127.0.0.1:9481 debug=127.0.0.1:9482
bin/bench origin --listen $origin & o=$!
GOMAXPROCS=1 bin/segue-edge-pgo --listen $edge --debug-listen $debug --origin http://$origin --memory 256MiB --log-level warn & e=$!
trap 'kill $o $e' EXIT
until curl -sf -o /dev/null http://$edge/healthz; do sleep 0.1; done
curl -sf -o bin/pgo.profile "http://$debug/debug/pprof/profile?seconds=45" & p=$!
wrk -t1 -c64 -d12s http://$edge/16384/hot >/dev/null
wrk -t1 -c64 -d6s http://$edge/262144/hot >/dev/null
wrk -t1 -c64 -d12s -s tools/bench/conf/ranges.lua http://$edge/8388608/hot >/dev/null
timeout 20 bin/bench zipf --base http://$edge --origin http://$origin --n 32 --requests 2000000 || true # until the profile ends
wait $p
mv bin/pgo.profile cmd/segue-edge/default.pgo
ls -l cmd/segue-edge/default.pgo
