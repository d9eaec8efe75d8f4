package edge

import (
	"context"
	"iter"
)

// BlockSize is the size of every block but an object's last, in bytes.
const BlockSize = 256 << 10

// ObjectID names the bytes of one version of one object: a hash of cache key, validator and size.
type ObjectID [16]byte

// BlockKey names one block. It is a value: compare it, use it as a map's key.
type BlockKey struct {
	Object ObjectID
	Block  uint32
}

// blockLen is the length of block n of an object of that size.
func blockLen(size int64, n uint32) int {
	return int(min(BlockSize, size-int64(n)*BlockSize))
}

// Tier is where a block came from.
type Tier string

// The tiers, as they stand in Cache-Status and metrics.
const (
	TierMemory Tier = "memory"
	TierDisk   Tier = "disk"
	TierShield Tier = "shield" // another edge of the region
	TierOrigin Tier = "origin"
)

// Want is a run of blocks, First to Last inclusive, of the object that Meta describes.
type Want struct {
	Meta        *Meta
	First, Last uint32
}

// Block holds the bytes of one block, at most BlockSize of them. All readers share them: they never change once the
// block was handed on. Keep the *Block for as long as Bytes is used, not the slice alone: the bytes may lie outside
// Go's heap, and go with the last *Block.
type Block struct {
	Bytes []byte
	place *place // nil: Bytes are in Go's heap
}

// cost is the memory that b takes, in bytes.
func (b *Block) cost() int64 {
	if b.place != nil {
		return pages(len(b.Bytes))
	}
	return int64(len(b.Bytes))
}

// pages rounds up to whole pages.
func pages(n int) int64 { return (int64(n) + 4095) &^ 4095 }

// Piece is one whole block, its number in its object, and where it came from.
type Piece struct {
	N     uint32
	Block *Block
	Tier  Tier
}

// Source yields the blocks of a Want in order, each as soon as it is there. It ends early with one error:
// media.ErrChanged when the origin has other bytes by now, media.ErrNotFound, ctx's error, or the failure of a tier
// below. The consumer may stop at any time. Safe for concurrent use.
type Source interface {
	Fetch(ctx context.Context, w Want) iter.Seq2[Piece, error]
}
