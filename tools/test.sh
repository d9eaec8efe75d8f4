#!/bin/bash
# Every check there is. Ends with one line of counts, and with status 1 if anything failed or was skipped.
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p .cache/log
failed=0
step() { # name, command…: prints how long it took
  local name=$1 begun=$SECONDS; shift
  if "$@"; then echo "ok    $name ($((SECONDS - begun)) s)"; else echo "FAIL  $name ($((SECONDS - begun)) s)"; failed=1; fi
}
formatted() { local bad; bad=$(git ls-files -z '*.go' | xargs -0 gofmt -l); [ -z "$bad" ] || { echo "gofmt: $bad"; return 1; }; }
static() { go vet ./... && go tool staticcheck ./...; }
gotest() {
  # Long arithmetic takes ten times as long under the race detector. recommend/model, which evaluate runs, stays under it.
  local pure='/recommend/evaluate$|/loadtest/sim$'
  go test -race -count=1 -timeout 40m -v $(go list ./... | grep -vE "$pure") >.cache/log/go.log 2>&1
  local status=$?
  go test -count=1 -timeout 20m -v $(go list ./... | grep -E "$pure") >>.cache/log/go.log 2>&1 || status=1
  grep -E '^(ok|FAIL|panic:|--- FAIL|    --- FAIL|--- SKIP|    --- SKIP)' .cache/log/go.log
  # What a failed test said comes before its line, what a race or a broken build said has a line of its own.
  [ $status = 0 ] || grep -E -B12 -A4 '^\s*--- FAIL|^panic:|^# |_test.go:[0-9]+: |WARNING: DATA RACE|^[^ ]+\.go:[0-9]+:[0-9]+:' .cache/log/go.log | head -300
  return $status
}
fuzz() { # each target from its seeds; by count, since a run that ends by the clock may end in "context deadline exceeded"
  local pkg target
  grep -rl --include='*_test.go' '^func Fuzz' . --exclude-dir=node_modules | xargs -n1 dirname | sort -u | while read -r pkg; do
    grep -ho '^func Fuzz[A-Za-z0-9]*' "$pkg"/*_test.go | sed 's/func //' | while read -r target; do
      go test "$pkg" -run '^$' -fuzz "^$target\$" -fuzztime 5000x >.cache/log/fuzz.log 2>&1 || { cat .cache/log/fuzz.log; exit 1; }
      echo "      $target in $pkg"
    done || exit 1
  done
}
e2e() { (cd web/e2e && node --test --test-concurrency=1 --test-reporter=tap) >.cache/log/e2e.log 2>&1; local s=$?; grep -E '^(ok|not ok)|^    (ok|not ok)' .cache/log/e2e.log; [ $s = 0 ] || grep -A40 '^ *not ok' .cache/log/e2e.log | head -150; return $s; }

step format formatted
step "vet, staticcheck" static
step "go test -race" gotest
step fuzz fuzz
step "browser" e2e

passed=$(grep -cE '^\s*--- PASS' .cache/log/go.log)
bad=$(grep -cE '^\s*--- FAIL' .cache/log/go.log)
skipped=$(grep -cE '^\s*--- SKIP' .cache/log/go.log)
for k in pass:passed fail:bad skipped:skipped todo:skipped; do
  n=$(sed -n "s/^# ${k%%:*} \([0-9]*\)$/\1/p" .cache/log/e2e.log | tail -1)
  eval "${k##*:}=\$((${k##*:} + ${n:-0}))"
done
echo "$passed passed, $bad failed, $skipped skipped"
[ $failed = 0 ] && [ "$bad" = 0 ] && [ "$skipped" = 0 ] && [ "$passed" -gt 50 ]
