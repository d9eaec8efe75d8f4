package edge

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"segue/edge/policy"
	"segue/media"
)

// body is a run of bytes over blocks. What is part of one block is all in head, with nothing left.
type body struct {
	block  *Block // in hand
	head   []byte // of it, not sent yet
	left   int64
	next   func() (Piece, error, bool)
	stop   func()
	cancel context.CancelFunc
}

// open fetches the first block, so that a failure can still become a status, and returns the tier it came from.
func (d *door) open(m *Meta, a policy.Answer) (*body, Tier, error) {
	first, last := uint32(a.Offset/BlockSize), uint32((a.Offset+a.Length-1)/BlockSize)
	skip := a.Offset - int64(first)*BlockSize
	if first == last {
		if b := d.memory.Get(BlockKey{m.Object, first}); b != nil {
			return &body{block: b, head: b.Bytes[skip : skip+a.Length]}, TierMemory, nil
		}
	}
	ctx, cancel := context.WithCancel(context.Background()) // ends with the reply, not with the handler
	next, stop := iter.Pull2(d.source.Fetch(ctx, Want{m, first, last}))
	timer := time.AfterFunc(d.wait, cancel)
	p, err, ok := next()
	if !timer.Stop() && err != nil {
		err = errors.Join(context.DeadlineExceeded, err)
	}
	if err != nil || !ok {
		stop()
		cancel()
		if err == nil {
			err = media.ErrCorrupt
		}
		return nil, "", err
	}
	if first == last {
		stop()
		cancel()
		return &body{block: p.Block, head: p.Block.Bytes[skip : skip+a.Length]}, p.Tier, nil
	}
	return &body{block: p.Block, head: p.Block.Bytes[skip:], left: a.Length, next: next, stop: stop, cancel: cancel}, p.Tier, nil
}

// WriteTo sends whole blocks, without a copy.
func (b *body) WriteTo(w io.Writer) (n int64, err error) {
	for b.left > 0 {
		if err := b.fill(); err != nil {
			return n, err
		}
		part := b.head[:min(int64(len(b.head)), b.left)]
		k, err := w.Write(part)
		n += int64(k)
		b.take(k)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Read implements io.Reader for where WriteTo is not used.
func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if err := b.fill(); err != nil {
		return 0, err
	}
	n := copy(p, b.head[:min(int64(len(b.head)), b.left)])
	b.take(n)
	return n, nil
}

func (b *body) take(n int) {
	b.head = b.head[n:]
	b.left -= int64(n)
}

func (b *body) fill() error {
	if len(b.head) > 0 {
		return nil
	}
	p, err, ok := b.next()
	if err == nil && !ok {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	b.block, b.head = p.Block, p.Block.Bytes
	return nil
}

// Close ends the fetch; fasthttp calls it when the reply is out or the player has gone.
func (b *body) Close() error {
	b.stop()
	b.cancel()
	return nil
}
