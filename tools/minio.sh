#!/bin/sh
# Builds MinIO, the S3 server of the tests, into .cache: four minutes, once per version.
set -eu
version=v0.0.0-20260212201848-7aac2a2c5b7c
dir=.cache/minio-$version
[ -x "$dir/minio" ] && exit 0
echo "building MinIO $version, some minutes"
mkdir -p "$dir"
GOBIN="$PWD/$dir" GOFLAGS= go install -trimpath -ldflags "-s -w" "github.com/minio/minio@$version"
