package main

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestClientIsUpToDate fails when an operation changed and nobody ran go generate.
func TestClientIsUpToDate(t *testing.T) {
	want, err := generate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../controlplane/api/client_gen.go")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(got), string(want)); d != "" {
		t.Errorf("run go generate ./controlplane/api: %s", d)
	}
}
