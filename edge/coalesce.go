package edge

import (
	"context"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"segue/media"
)

// maxFill bounds one fill, in blocks: what a client who leaves at once can make an edge fetch in vain.
const maxFill = 64

// Coalesce answers from memory and fills it from the tier below: blocks that are missing in a row are one Fetch
// below, whatever the number of waiters; each waiter gets each block when it arrives.
type Coalesce struct {
	memory  *Memory
	below   Source
	timeout time.Duration // of one fill
	metrics *metrics
	life    context.Context // of all fills: they outlive their callers, not the edge
	stop    context.CancelFunc

	mu      sync.Mutex             // guards pending
	pending map[BlockKey]*arriving // blocks being filled
	fills   sync.WaitGroup
}

// arriving is a block on its way. block, tier and err are set before done is closed.
type arriving struct {
	done  chan struct{}
	block *Block
	tier  Tier
	err   error
}

func newCoalesce(memory *Memory, below Source, timeout time.Duration, m *metrics) *Coalesce {
	life, stop := context.WithCancel(context.Background())
	return &Coalesce{memory: memory, below: below, timeout: timeout, metrics: m, life: life, stop: stop, pending: map[BlockKey]*arriving{}}
}

// Fetch implements Source.
func (c *Coalesce) Fetch(ctx context.Context, w Want) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		for n := w.First; n <= w.Last; n++ {
			key := BlockKey{w.Meta.Object, n}
			if b := c.memory.Get(key); b != nil {
				if !yield(Piece{n, b, TierMemory}, nil) {
					return
				}
				continue
			}
			b, a := c.join(w, n)
			if b != nil {
				if !yield(Piece{n, b, TierMemory}, nil) {
					return
				}
				continue
			}
			select {
			case <-a.done:
			case <-ctx.Done():
				yield(Piece{}, ctx.Err())
				return
			}
			if a.err != nil {
				yield(Piece{}, a.err)
				return
			}
			if !yield(Piece{n, a.block, a.tier}, nil) {
				return
			}
		}
	}
}

// join returns block n from memory, or its arrival, which it starts for the whole missing run if nobody has.
func (c *Coalesce) join(w Want, n uint32) (*Block, *arriving) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.pending[BlockKey{w.Meta.Object, n}]; a != nil {
		c.metrics.coalesced.Inc()
		return nil, a
	}
	// A fill puts a block into memory before it leaves pending, so this look cannot miss one that just arrived.
	if b := c.memory.Get(BlockKey{w.Meta.Object, n}); b != nil {
		return b, nil
	}
	run := Want{w.Meta, n, n}
	var waiting []*arriving
	for k := n; k <= w.Last && k-n < maxFill; k++ {
		key := BlockKey{w.Meta.Object, k}
		if k > n && (c.pending[key] != nil || c.memory.Get(key) != nil) {
			break
		}
		a := &arriving{done: make(chan struct{})}
		c.pending[key] = a
		waiting = append(waiting, a)
		run.Last = k
	}
	// The fill outlives its first caller: the others wait for it too, and the bytes are wanted.
	fctx, cancel := context.WithTimeout(c.life, c.timeout)
	c.fills.Go(func() {
		defer cancel()
		_ = c.take(run, waiting, c.below.Fetch(fctx, run)) // each waiter has it
	})
	return nil, waiting[0]
}

// adopt fills count blocks from the first on out of a body that is open already: skip bytes are read and dropped
// before. It closes the body. When bytes are missing and cannot be fetched again, lost is called.
func (c *Coalesce) adopt(m *Meta, first uint32, count int, skip int64, body io.ReadCloser, lost func()) {
	run := Want{m, first, first + uint32(count) - 1}
	waiting := make([]*arriving, count)
	c.mu.Lock()
	for i := range waiting {
		waiting[i] = &arriving{done: make(chan struct{})}
		if key := (BlockKey{m.Object, first + uint32(i)}); c.pending[key] == nil {
			c.pending[key] = waiting[i]
		}
	}
	c.mu.Unlock()
	c.fills.Go(func() {
		defer body.Close()
		timer := time.AfterFunc(c.timeout, func() { body.Close() })
		defer timer.Stop()
		if count == 0 {
			return
		}
		if err := c.take(run, waiting, c.read(run, skip, body)); err != nil && !m.Strong {
			lost()
		}
	})
}

// read yields the blocks of a run out of a body.
func (c *Coalesce) read(run Want, skip int64, body io.Reader) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		if _, err := io.CopyN(io.Discard, body, skip); err != nil {
			yield(Piece{}, fmt.Errorf("fetch %s: %w", run.Meta.Key, err))
			return
		}
		for n := run.First; n <= run.Last; n++ {
			b := c.memory.Alloc(blockLen(run.Meta.Size, n))
			if _, err := io.ReadFull(body, b.Bytes); err != nil {
				yield(Piece{}, fmt.Errorf("fetch %s: block %d: %w", run.Meta.Key, n, err))
				return
			}
			if !yield(Piece{n, b, TierOrigin}, nil) {
				return
			}
		}
	}
}

// take hands the pieces of a run to those who wait, and to memory.
func (c *Coalesce) take(run Want, waiting []*arriving, pieces iter.Seq2[Piece, error]) (failure error) {
	next := run.First
	for p, err := range pieces {
		if err == nil && (p.N != next || len(p.Block.Bytes) != blockLen(run.Meta.Size, next)) {
			err = fmt.Errorf("bug: block %d of %d bytes where %d was due: %w", p.N, len(p.Block.Bytes), next, media.ErrCorrupt)
		}
		if err != nil {
			failure = err
			break
		}
		key := BlockKey{run.Meta.Object, next}
		c.metrics.evicted.Add(float64(c.memory.Put(key, p.Block)))
		c.metrics.filledBytes.WithLabelValues(string(p.Tier)).Add(float64(len(p.Block.Bytes)))
		a := waiting[next-run.First]
		a.block, a.tier = p.Block, p.Tier
		c.arrived(key, a)
		next++
	}
	if failure == nil && next <= run.Last {
		failure = fmt.Errorf("source ended before block %d: %w", next, media.ErrCorrupt)
	}
	for ; next <= run.Last; next++ {
		a := waiting[next-run.First]
		a.err = failure
		c.arrived(BlockKey{run.Meta.Object, next}, a)
	}
	return failure
}

func (c *Coalesce) arrived(key BlockKey, a *arriving) {
	c.mu.Lock()
	if c.pending[key] == a {
		delete(c.pending, key)
	}
	c.mu.Unlock()
	close(a.done)
}

// end stops all fills and returns when they have ended. No Fetch may begin after it.
func (c *Coalesce) end() {
	c.stop()
	c.fills.Wait()
}
