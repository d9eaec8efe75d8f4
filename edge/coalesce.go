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

// maxFill bounds one fill, in blocks, 8 MiB: what a client who leaves at once can make an edge fetch in vain.
const maxFill = 32

// fillsAhead is how many fills are begun ahead of a reader of a long range: beside the one that it reads from, so that
// an origin which gives each connection little gives three times that.
const fillsAhead = 2

// Coalesce answers from memory and fills it from the tier below: blocks that are missing in a row are one Fetch
// below, whatever the number of waiters; each waiter gets each block when it arrives. A fill never waits for a reader:
// it goes into memory and ends.
type Coalesce struct {
	memory  *Memory
	below   Source
	remote  func(*Meta) bool // whether the tier below would ask a peer
	ahead   uint32           // blocks that may be read ahead of one reader
	timeout time.Duration    // of one fill
	metrics *metrics
	keep    func(m *Meta, p Piece) // puts a block on disk; nil: there is none
	life    context.Context        // of all fills: they outlive their callers, not the edge
	stop    context.CancelFunc

	mu      sync.Mutex           // guards pending
	pending map[coming]*arriving // blocks being filled
	fills   sync.WaitGroup
}

// coming names a block on its way, and whether without the help of a peer. A peer's request waits for no block that may
// come from a peer: two edges could wait for each other.
type coming struct {
	BlockKey
	alone bool
}

// arriving is a block on its way. block, tier and err are set before done is closed.
type arriving struct {
	key   coming
	done  chan struct{}
	block *Block
	tier  Tier
	err   error
}

// newCoalesce makes one for a memory of budget bytes.
func newCoalesce(memory *Memory, below Source, remote func(*Meta) bool, budget int64, timeout time.Duration, m *metrics) *Coalesce {
	life, stop := context.WithCancel(context.Background())
	ahead := fillsAhead * maxFill
	if budget < 8*int64(ahead)*BlockSize { // what is read ahead must still be there when its turn comes
		ahead = 0
	}
	return &Coalesce{memory: memory, below: below, remote: remote, ahead: uint32(ahead), timeout: timeout, metrics: m, life: life, stop: stop, pending: map[coming]*arriving{}}
}

// Fetch implements Source.
func (c *Coalesce) Fetch(ctx context.Context, w Want) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		turn := w.First + 1 // where to look ahead: who took a block will take more
		for n := w.First; n <= w.Last; n++ {
			if n == turn {
				c.readAhead(w, n)
				turn += maxFill / 2
			}
			b, a := c.memory.Get(BlockKey{w.Meta.Object, n}), (*arriving)(nil)
			if b == nil {
				b, a = c.join(w, n)
			}
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

// readAhead begins the fills of what is missing within ahead of block n. An origin that is busy is left to those who wait.
func (c *Coalesce) readAhead(w Want, n uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := n; k <= w.Last && k-n < c.ahead; {
		if c.has(w, k) {
			k++
			continue
		}
		if !w.Meta.Route.care.spare() {
			return
		}
		c.metrics.readAhead.Inc()
		k += uint32(len(c.fill(w, k)))
	}
}

// has reports whether block n is in memory or on its way. The caller holds mu.
func (c *Coalesce) has(w Want, n uint32) bool {
	return c.coming(w, n) != nil || c.memory.Get(BlockKey{w.Meta.Object, n}) != nil
}

// coming returns block n if it is on its way, by a way that w may wait for. The caller holds mu.
func (c *Coalesce) coming(w Want, n uint32) *arriving {
	key := coming{BlockKey{w.Meta.Object, n}, true}
	if a := c.pending[key]; a != nil || w.Meta.alone {
		return a
	}
	key.alone = false
	return c.pending[key]
}

// join returns block n from memory, or its arrival, which it starts for the whole missing run if nobody has.
func (c *Coalesce) join(w Want, n uint32) (*Block, *arriving) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.coming(w, n); a != nil {
		c.metrics.coalesced.Inc()
		return nil, a
	}
	// A fill puts a block into memory before it leaves pending, so this look cannot miss one that just arrived.
	if b := c.memory.Get(BlockKey{w.Meta.Object, n}); b != nil {
		return b, nil
	}
	return nil, c.fill(w, n)[0]
}

// fill begins to fill block n, which is missing, and those after it that are. The caller holds mu.
func (c *Coalesce) fill(w Want, n uint32) []*arriving {
	run := Want{w.Meta, n, n}
	if !run.Meta.alone && !c.remote(run.Meta) {
		own := *run.Meta
		own.alone = true // and stays so, whatever becomes of the peers meanwhile
		run.Meta = &own
	}
	var waiting []*arriving
	for k := n; k <= w.Last && k-n < maxFill && (k == n || !c.has(w, k)); k++ {
		a := &arriving{key: coming{BlockKey{w.Meta.Object, k}, run.Meta.alone}, done: make(chan struct{})}
		c.pending[a.key] = a
		waiting = append(waiting, a)
		run.Last = k
	}
	// The fill outlives its first caller: the others wait for it too, and the bytes are wanted.
	fctx, cancel := context.WithTimeout(c.life, c.timeout)
	c.fills.Go(func() {
		defer cancel()
		_ = c.take(run, waiting, c.below.Fetch(fctx, run)) // each waiter has it
	})
	return waiting
}

// adopt fills count blocks from the first on out of a body that is open already: skip bytes are read and dropped
// before. It closes the body. When bytes are missing and cannot be fetched again, lost is called.
func (c *Coalesce) adopt(m *Meta, first uint32, count int, skip int64, from Tier, body io.ReadCloser, lost func()) {
	run := Want{m, first, first + uint32(count) - 1}
	waiting := make([]*arriving, count)
	c.mu.Lock()
	for i := range waiting {
		waiting[i] = &arriving{key: coming{BlockKey{m.Object, first + uint32(i)}, from == TierOrigin}, done: make(chan struct{})}
		if c.pending[waiting[i].key] == nil {
			c.pending[waiting[i].key] = waiting[i]
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
		if err := c.take(run, waiting, c.read(run, skip, from, body)); err != nil && !m.Strong {
			lost()
		}
	})
}

// read yields the blocks of a run out of a body. When it breaks and the rest can be had otherwise, it is.
func (c *Coalesce) read(run Want, skip int64, from Tier, body io.ReadCloser) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		_, err := io.CopyN(io.Discard, body, skip)
		if err == nil {
			err = blocks(body, &run, c.memory.Alloc, from, yield)
		}
		if err == nil || err == errStopped {
			return
		}
		body.Close() // its slot is free for the rest
		m := run.Meta
		if m.Strong && !m.part() && m.Route.care.again(c.life, "resume") {
			ctx, cancel := context.WithTimeout(c.life, c.timeout)
			defer cancel()
			own := *m
			own.alone = true
			for p, err := range c.below.Fetch(ctx, Want{&own, run.First, run.Last}) {
				if !yield(p, err) {
					return
				}
			}
			return
		}
		m.Route.care.complain(m.Key, err)
		yield(Piece{}, fmt.Errorf("fetch %s: block %d: %w", m.Key, run.First, err))
	}
}

// again is what happens when a block is asked for a second time: it is worth the disk then, which never sees it missed
// twice while memory holds it.
func (c *Coalesce) again(m *Meta, p Piece) func() {
	if c.keep == nil || p.Tier == TierDisk {
		return nil
	}
	return func() { c.keep(m, p) }
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
		c.metrics.evicted.Add(float64(c.memory.PutAnd(key, p.Block, c.again(run.Meta, p))))
		c.metrics.filledBytes.WithLabelValues(string(p.Tier)).Add(float64(len(p.Block.Bytes)))
		a := waiting[next-run.First]
		a.block, a.tier = p.Block, p.Tier
		c.arrived(a)
		next++
	}
	if failure == nil && next <= run.Last {
		failure = fmt.Errorf("source ended before block %d: %w", next, media.ErrCorrupt)
	}
	for ; next <= run.Last; next++ {
		a := waiting[next-run.First]
		a.err = failure
		c.arrived(a)
	}
	return failure
}

func (c *Coalesce) arrived(a *arriving) {
	c.mu.Lock()
	if c.pending[a.key] == a {
		delete(c.pending, a.key)
	}
	c.mu.Unlock()
	close(a.done)
}

// end stops all fills and returns when they have ended. No Fetch may begin after it.
func (c *Coalesce) end() {
	c.stop()
	c.fills.Wait()
}
