package registry_test

import (
	"testing"

	"segue/internal/registry"
	"segue/internal/registry/registrytest"
)

func TestMemory(t *testing.T) {
	m := &registry.Memory{}
	registrytest.Run(t, m, m)
}
