# make check is everything; make test alone installs what it needs (Debian 12, root).
FUZZTIME ?= 10s
CONFIG ?= config.yaml

.PHONY: build test soak race memory bench fuzz lint check demo run clean

build:
	go build -o bin/postern ./cmd/postern

# Everything, with real servers and real clients.
test:
	upstream/upstreamtest/install.sh
	POSTERN_REAL=1 go test -race -timeout 30m ./...
	POSTERN_REAL=1 go test -run TestOracle ./cmd/postern

# Random sessions and faults against a mail store that knows what became of
# every message: so long by IMAP, then by JMAP.
SOAK ?= 1h
soak:
	go test -count 1 -v -timeout 0 -run TestOracle ./cmd/postern -oracle.soak $(SOAK)

# What needs nothing installed but a C compiler.
race:
	go test -race ./...

# Measures resident memory: idle sessions, one large message.
memory:
	POSTERN_MEMORY=1 go test -count 1 -v -run TestMemory ./cmd/postern

# Compares postern with what it stands in front of, all in one run (Linux).
bench:
	go run ./cmd/popbench compare

fuzz:
	.ci/fuzz $(FUZZTIME)

lint:
	test -z "$$(gofmt -l . | tee /dev/stderr)"
	go vet ./...
	go tool staticcheck ./...

check: lint test

# The gateway with a mail server and sample mail inside; nothing to configure.
demo:
	go run ./cmd/postern demo

run:
	go run ./cmd/postern serve --config $(CONFIG)

clean:
	rm -rf bin
	go clean -testcache -fuzzcache
