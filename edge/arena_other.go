//go:build !linux

package edge

// arena is for systems with memory files. Elsewhere blocks lie in Go's heap.
type arena struct{}

func newArena(int64) *arena { return nil }

func (a *arena) alloc(n int) *Block { return &Block{Bytes: make([]byte, n)} }
