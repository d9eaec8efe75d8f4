#!/bin/sh
# Builds Consul, a registry of the tests, into .cache: four minutes, once per version. `go install pkg@version` refuses it
# (replace directives), so a module of its own in tools/consul names it. 1.20.6 is the last release whose submodules the
# checksum database knows.
set -eu
version=$(sed -n 's/^require github.com\/hashicorp\/consul //p' tools/consul/go.mod)
dir=.cache/consul-$version
[ -x "$dir/consul" ] && exit 0
echo "building Consul $version, some minutes"
mkdir -p "$dir"
out="$PWD/$dir/consul"
(cd tools/consul && GOFLAGS= go build -trimpath -ldflags "-s -w" -o "$out.new" github.com/hashicorp/consul)
mv "$out.new" "$out"
