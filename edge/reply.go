package edge

import (
	"context"
	"errors"
	"io"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"segue/edge/policy"
	"segue/edge/transport"

	"github.com/valyala/fasthttp"
)

// body is the bytes of one reply, a run over blocks. It keeps the block in hand alive until it is sent, takes blocks
// that are in memory from there, and from the first that is not, the rest from the source. Bodies are pooled: a hit
// allocates nothing, however long it is.
type body struct {
	memory *Memory
	source Source
	meta   *Meta
	n      uint32 // of the block in hand
	last   uint32
	block  *Block
	at     int   // how much of the block was taken
	left   int64 // of the body
	waited bool  // for the first block
	herd   herd
	conn   *transport.Conn
	fetch  fetch
	whole  int64       // bytes of the body
	log    *RequestLog // that record goes to in the end; nil: none
	record Record
}

// herd lets all who waited for the same block have a first part before anybody has the rest.
type herd int

const (
	noHerd    herd = iota
	herdFirst      // the next part is small
	herdThen       // and others go first before the one after it
)

// firstPart is the size of a first part, in bytes: more than a player's smallest read, less than a socket takes at once.
const firstPart = 16 << 10

// herding counts the replies under way whose first block had to be waited for. More than crowd of them take turns of that
// many bytes: 500 that wait for one object of 1 MiB have their first bytes after a tenth of the time that all bytes take.
var herding atomic.Int64

const (
	crowd = 32
	turn  = 32 << 10
)

// fetch is a run from the source, under way; the zero value is none.
type fetch struct {
	next   func() (Piece, error, bool)
	stop   func()
	cancel context.CancelFunc
}

// fileFrom is the size in bytes from which a piece goes by sendfile. Below, one writev of head and bytes costs no more
// than two calls, and leaves the block's pages to be used again; docs/performance.md, "Edge".
const fileFrom = 96 << 10

var bodies = sync.Pool{New: func() any { return new(body) }}

// open fetches the first block, so that a failure can still become a status, and returns the tier it came from.
// send or Close must follow.
func (d *door) open(m *Meta, a policy.Answer) (*body, Tier, error) {
	b := bodies.Get().(*body)
	*b = body{memory: d.memory, source: d.source, meta: m, left: a.Length,
		n: uint32(a.Offset / BlockSize), last: uint32((a.Offset + a.Length - 1) / BlockSize)}
	b.at, b.whole = int(a.Offset-int64(b.n)*BlockSize), a.Length
	tier := TierMemory
	if b.block = b.memory.Get(BlockKey{m.Object, b.n}); b.block == nil {
		b.begin()
		timer := time.AfterFunc(d.wait, b.fetch.cancel)
		p, err := b.pull()
		if !timer.Stop() && err != nil {
			err = errors.Join(context.DeadlineExceeded, err)
		}
		if err != nil {
			b.Close()
			return nil, "", err
		}
		tier, b.block, b.herd, b.waited = p.Tier, p.Block, herdFirst, true
		herding.Add(1)
	} else if herding.Load() > crowd { // it came late to one
		b.herd = herdFirst
	}
	return b, tier, nil
}

// send makes b the body of a reply, which is then b's owner.
func (b *body) send(ctx *fasthttp.RequestCtx) {
	b.conn, _ = ctx.Conn().(*transport.Conn)
	ctx.Response.SetBodyStream(b, int(b.left))
}

// begin starts the fetch of the blocks from n on. It ends with the body, not with the handler.
func (b *body) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	b.fetch.next, b.fetch.stop = iter.Pull2(b.source.Fetch(ctx, Want{b.meta, b.n, b.last}))
	b.fetch.cancel = cancel
}

func (b *body) pull() (Piece, error) {
	p, err, ok := b.fetch.next()
	if err == nil && !ok {
		err = io.ErrUnexpectedEOF
	}
	return p, err
}

// ahead makes sure that the block in hand has bytes left.
func (b *body) ahead() error {
	if b.at < len(b.block.Bytes) {
		return nil
	}
	b.n, b.at = b.n+1, 0
	if b.fetch.next == nil {
		if b.block = b.memory.Get(BlockKey{b.meta.Object, b.n}); b.block != nil {
			return nil
		}
		b.begin()
	}
	p, err := b.pull()
	b.block = p.Block
	return err
}

// part returns the next bytes, at most limit of them and none beyond the block in hand; io.EOF at the end.
func (b *body) part(limit int64) ([]byte, error) {
	if b.left == 0 {
		return nil, io.EOF
	}
	if err := b.ahead(); err != nil {
		return nil, err
	}
	part := b.block.Bytes[b.at:]
	part = part[:min(int64(len(part)), b.left, limit)]
	b.at += len(part)
	b.left -= int64(len(part))
	return part, nil
}

// Piece implements transport.Body.
func (b *body) Piece(limit int64) (transport.Piece, error) {
	// Here and not in part: what went into the buffer of the reply's head has not been sent yet.
	switch b.herd {
	case herdFirst:
		b.herd, limit = herdThen, min(limit, firstPart)
	case herdThen:
		// A crowd is served in turns: who has something gets no more before the others have as much, or the last of
		// them would wait for all bytes of all others.
		if herding.Load() > crowd {
			limit = min(limit, turn)
		} else {
			b.herd = noHerd
		}
		runtime.Gosched()
	}
	part, err := b.part(limit)
	if err != nil {
		return transport.Piece{}, err
	}
	p := transport.Piece{Bytes: part}
	if at := b.block.place; at != nil && len(part) >= fileFrom && at.byFile(len(part)) {
		p.File, p.Offset = at.file, at.offset+int64(b.at-len(part))
	}
	return p, nil
}

// WriteTo sends whole blocks without a copy. On a Conn of ours, w is a buffer with the head of the reply in it: the
// buffer takes the body's first bytes, is held back when it is full, and leaves with the rest.
func (b *body) WriteTo(w io.Writer) (n int64, err error) {
	if r, ok := w.(io.ReaderFrom); ok && b.conn != nil {
		b.conn.Hold()
		n, err = r.ReadFrom(b)
		return n, errors.Join(err, b.conn.Release())
	}
	for {
		part, err := b.part(b.left)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		k, err := w.Write(part)
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
}

// Read implements io.Reader for where WriteTo is not used.
func (b *body) Read(p []byte) (int, error) {
	part, err := b.part(int64(len(p)))
	return copy(p, part), err
}

// Close ends the fetch and the body; fasthttp calls it when the reply is out or the player has gone.
func (b *body) Close() error {
	if b.fetch.next != nil {
		b.fetch.stop()
		b.fetch.cancel()
	}
	if b.log != nil {
		b.record.Duration, b.record.Bytes = time.Since(b.record.Time), b.whole-b.left
		b.log.Add(&b.record)
	}
	if b.waited {
		herding.Add(-1)
	}
	*b = body{}
	bodies.Put(b)
	return nil
}
