# make up: the whole platform. make test: every check. make help: the rest.
MUSIC ?= /usr/share/games/wesnoth/1.16/data/core/music
DATA ?= segue-data
ARGS ?=
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo dev)

.PHONY: up build test test-short bench bench-edge bench-api deps-up deps web clean help

up: build ## install what is missing, build, run everything with music (MUSIC=DIR, DATA=DIR, ARGS="--edges 3")
	exec bin/segue up --data $(DATA) --music $(MUSIC) $(ARGS)

build: deps-up web ## build the three programs into bin/
	go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/ ./cmd/...

web: ## build the web pages
	@tools/npm.sh web
	@cd web && npm run --silent build

test: deps build ## install what is missing, start the real services on loopback, run every test
	@tools/test.sh

test-short: ## tests that need no service: seconds
	go test -short ./...

bench: ## benchmarks; figures with their commands are in docs/performance.md
	go test -run '^$$' -bench . -benchmem ./...
	@$(MAKE) --no-print-directory bench-api

bench-edge: ## segue-edge beside nginx, Varnish and Traffic Server: some twenty minutes (ARGS="--only hot")
	@tools/bench/edge.sh $(ARGS)

bench-api: ## control planes under an open loop on a million tracks: half an hour, the first time more (ARGS="-tracks 100000")
	@mkdir -p bin
	go build -trimpath -o bin/segue-controlplane ./cmd/segue-controlplane
	go build -o bin/bench ./tools/bench
	@ulimit -n "$$(ulimit -Hn)"; bin/bench api $(ARGS)

deps-up: # what `make up` needs
	@tools/debian.sh tools/debian-up.txt
	@tools/npm.sh tools/chdb .cache/chdb
	@tools/npm.sh tools/geo .cache/geo

deps: deps-up ## all that tests need: ffmpeg, music, PostgreSQL, Chromium, MinIO, Consul, npm packages
	@tools/debian.sh tools/debian-test.txt
	@tools/npm.sh web/e2e
	@tools/npm.sh edge/testdata/publicsuite .cache/publicsuite
	@tools/minio.sh
	@tools/consul.sh

clean: ## remove what was built; the data folder stays
	rm -rf bin .cache web/node_modules web/e2e/node_modules web/dist/assets web/dist/*.html

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14
