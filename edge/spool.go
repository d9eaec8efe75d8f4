package edge

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"segue/controlplane/api/edgelog"
	"segue/media"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
)

// Spool is a Sink that keeps records on disk until somebody has taken them: the control plane, by way of fleet.Member. A life of the edge is one log of it,
// whose rows are numbered from 1; its segments are files of frames (package edgelog).
//
//	<log>-<seq of the first row, 20 digits>.seg      shipped oldest first, deleted when all of it was taken
//	taken                                            how far the oldest one is
//
// What was written survives the process, however it ends; it is flushed once a second, so that a power cut costs as much. When the
// files have more bytes than they may, the oldest go, and are counted. It is safe for concurrent use.
type Spool struct {
	dir     string
	budget  int64
	segment int64 // bytes after which a new segment is begun
	log     string
	slog    *slog.Logger
	more    chan struct{} // has one when there may be frames to ship

	raw, frame []byte // of Take; one goroutine

	mu       sync.Mutex // guards the fields below
	next     uint64     // seq of the next row
	segments []*spooled // oldest first; the last one is written if file is set
	file     *os.File   // nil: the next frame begins a segment
	bytes    int64      // of all segments
	flushed  time.Time
	offset   int64 // taken of the oldest segment

	rows, dropped, torn prometheus.Counter
	refused             prometheus.Counter
}

type spooled struct {
	name string
	size int64
	rows int64 // that are not taken; an estimate for segments of an earlier life, until they are read
}

const (
	segmentBytes = 4 << 20
	// spoolLeast is the least budget: two segments of a useful size.
	spoolLeast = 1 << 20
	flushEvery = time.Second
	takenName  = "taken"
)

// OpenSpool opens a folder, or makes it; budget is in bytes.
func OpenSpool(dir string, budget int64, log *slog.Logger, reg prometheus.Registerer) (*Spool, error) {
	if budget < spoolLeast {
		return nil, fmt.Errorf("a spool of request logs has %d bytes at least: %w", spoolLeast, media.ErrInvalid)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	s := &Spool{dir: dir, budget: budget, segment: min(segmentBytes, budget/8), log: ulid.Make().String(), slog: log, more: make(chan struct{}, 1), next: 1, flushed: time.Now(),
		rows:    prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_spool_rows_total", Help: "Request log rows written to the spool."}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_spool_dropped_total", Help: "Rows that went, oldest first, because the disk budget of the spool was spent."}),
		torn:    prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_spool_torn_total", Help: "Segments whose end could not be read: a write that a crash cut off, or a damaged disk."}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "segue_edge_spool_refused_total", Help: "Rows that the control plane will never take."})}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	for _, e := range entries { // sorted: logs are ULIDs, hence by time
		if !strings.HasSuffix(e.Name(), ".seg") {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("spool: %w", err)
		}
		seg := &spooled{name: e.Name(), size: info.Size()}
		if seg.rows, err = s.countRows(seg.name, 0); err != nil {
			return nil, err
		}
		s.segments, s.bytes = append(s.segments, seg), s.bytes+seg.size
	}
	if err := s.readTaken(); err != nil {
		return nil, err
	}
	reg.MustRegister(s.rows, s.dropped, s.torn, s.refused,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "segue_edge_spool_bytes", Help: "Bytes in the spool."}, func() float64 { bytes, _ := s.waiting(); return float64(bytes) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "segue_edge_spool_rows", Help: "Rows in the spool that wait to be taken."}, func() float64 { _, rows := s.waiting(); return float64(rows) }))
	s.wake()
	return s, nil
}

// countRows counts the whole rows of a file from an offset on.
func (s *Spool) countRows(name string, offset int64) (rows int64, err error) {
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		return 0, fmt.Errorf("spool: %w", err)
	}
	for b = b[min(offset, int64(len(b))):]; len(b) > 0; {
		h, _, rest, err := edgelog.Cut(b)
		if err != nil {
			break // shipping finds it again, and says so
		}
		rows, b = rows+int64(h.Rows), rest
	}
	return rows, nil
}

// readTaken finds how far the oldest segment is taken.
func (s *Spool) readTaken() error {
	b, err := os.ReadFile(filepath.Join(s.dir, takenName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	name, number, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	offset, err := strconv.ParseInt(number, 10, 64)
	if len(s.segments) == 0 || s.segments[0].name != name || err != nil || offset < 0 || offset > s.segments[0].size {
		return nil // of a segment that is gone, or not whole: what was taken is sent again, which is harmless
	}
	s.offset = offset
	s.segments[0].rows, err = s.countRows(name, offset)
	return err
}

func (s *Spool) waiting() (bytes, rows int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seg := range s.segments {
		rows += seg.rows
	}
	return s.bytes - s.offset, rows
}

func (s *Spool) wake() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// More has a value when there may be something to ship.
func (s *Spool) More() <-chan struct{} { return s.more }

// Refused counts rows that will never be taken.
func (s *Spool) Refused(rows int) { s.refused.Add(float64(rows)) }

// Take implements Sink.
func (s *Spool) Take(batch []*Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.write(batch)
	if time.Since(s.flushed) > flushEvery && s.file != nil {
		s.flushed = time.Now()
		err = errors.Join(err, s.file.Sync())
	}
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	s.wake()
	return nil
}

// write appends a frame, or several when one would be too large.
func (s *Spool) write(batch []*Record) error {
	s.raw = s.raw[:0]
	for _, r := range batch {
		row := rowOf(r)
		s.raw = edgelog.AppendRow(s.raw, &row)
	}
	var err error
	if len(s.raw) > edgelog.MaxRaw {
		err = errTooMuch
	} else {
		s.frame, err = edgelog.AppendFrame(s.frame[:0], edgelog.Head{Log: s.log, First: s.next, Rows: len(batch)}, s.raw)
	}
	if err != nil && len(batch) > 1 {
		half := len(batch) / 2
		return errors.Join(s.write(batch[:half]), s.write(batch[half:]))
	} else if err != nil {
		return err
	}
	if s.file == nil {
		if err := s.begin(); err != nil {
			return err
		}
	}
	seg := s.segments[len(s.segments)-1]
	// The numbers are spent, also when they cannot be written: a gap is how the loss is seen.
	s.next += uint64(len(batch))
	if _, err := s.file.Write(s.frame); err != nil {
		// What it left of the frame must not stand before others.
		return errors.Join(err, s.file.Truncate(seg.size), s.end())
	}
	seg.size, seg.rows, s.bytes = seg.size+int64(len(s.frame)), seg.rows+int64(len(batch)), s.bytes+int64(len(s.frame))
	s.rows.Add(float64(len(batch)))
	if seg.size >= s.segment {
		err = s.end()
	}
	return errors.Join(err, s.shrink())
}

var errTooMuch = errors.New("too much for one frame")

func (s *Spool) begin() error {
	name := fmt.Sprintf("%s-%020d.seg", s.log, s.next)
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	s.file, s.segments = f, append(s.segments, &spooled{name: name})
	return nil
}

func (s *Spool) end() error {
	f := s.file
	s.file = nil
	return errors.Join(f.Sync(), f.Close())
}

// shrink deletes the oldest segments until the budget is kept.
func (s *Spool) shrink() error {
	for s.bytes > s.budget && len(s.segments) > 1 {
		seg := s.segments[0]
		s.dropped.Add(float64(seg.rows))
		s.slog.Warn("request logs dropped, the disk budget of the spool is spent", "rows", seg.rows)
		if err := s.remove(); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes the oldest segment.
func (s *Spool) remove() error {
	seg := s.segments[0]
	if err := os.Remove(filepath.Join(s.dir, seg.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.segments, s.bytes, s.offset = s.segments[1:], s.bytes-seg.size, 0
	return nil
}

// Shipment is some frames, oldest first, on their way.
type Shipment struct {
	Frames  []byte
	Rows    int
	segment string
	from    int64
	length  int64
}

// Ship returns the oldest frames that are not taken, at most so many bytes but one frame at least; ok false: there are none. It returns the same
// until Taken is called.
func (s *Spool) Ship(atMost int) (ship Shipment, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.segments) > 0 {
		seg := s.segments[0]
		current := s.file != nil && len(s.segments) == 1
		if s.offset >= seg.size {
			if current {
				return ship, false, nil
			}
			if err := s.remove(); err != nil {
				return ship, false, fmt.Errorf("spool: %w", err)
			}
			continue
		}
		b, err := readAt(filepath.Join(s.dir, seg.name), s.offset, min(seg.size-s.offset, int64(max(atMost, edgelog.MaxFrame))))
		if err != nil {
			return ship, false, fmt.Errorf("spool: %w", err)
		}
		ship = Shipment{segment: seg.name, from: s.offset}
		for rest := b; len(rest) > 0; {
			h, frame, after, err := edgelog.Cut(rest)
			if err != nil || ship.Rows > 0 && int(ship.length)+len(frame) > atMost {
				break
			}
			ship.Rows, ship.length, rest = ship.Rows+h.Rows, ship.length+int64(len(frame)), after
		}
		if ship.Rows > 0 {
			ship.Frames = b[:ship.length]
			return ship, true, nil
		}
		// No frame begins here: a crash cut it off, or the disk is damaged. Nothing behind it can be found again.
		s.torn.Inc()
		s.slog.Warn("the rest of a segment of the request log cannot be read", "key", seg.name, "bytes", seg.size-s.offset)
		s.dropped.Add(float64(seg.rows))
		if current {
			if err := s.end(); err != nil {
				return ship, false, fmt.Errorf("spool: %w", err)
			}
		}
		if err := s.remove(); err != nil {
			return ship, false, fmt.Errorf("spool: %w", err)
		}
	}
	return ship, false, nil
}

func readAt(path string, offset, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, n)
	read, err := f.ReadAt(b, offset)
	if err != nil && read == 0 {
		return nil, err
	}
	return b[:read], nil
}

// Taken says that a shipment is safe elsewhere.
func (s *Spool) Taken(ship Shipment) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.segments) == 0 || s.segments[0].name != ship.segment || s.offset != ship.from {
		return nil // it was dropped meanwhile
	}
	seg := s.segments[0]
	s.offset += ship.length
	seg.rows = max(0, seg.rows-int64(ship.Rows))
	if s.offset >= seg.size && (s.file == nil || len(s.segments) > 1) {
		if err := s.remove(); err != nil {
			return fmt.Errorf("spool: %w", err)
		}
		return nil
	}
	// A lost note means that frames are sent twice, which is harmless.
	tmp := filepath.Join(s.dir, takenName+".new")
	err := os.WriteFile(tmp, fmt.Appendf(nil, "%s %d\n", seg.name, s.offset), 0o640)
	if err == nil {
		err = os.Rename(tmp, filepath.Join(s.dir, takenName))
	}
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}

// Close flushes. What is left is shipped in the next life.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	if err := s.end(); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	return nil
}

// rowOf is a record in the form that is shipped. Its texts are the record's.
func rowOf(r *Record) edgelog.Row {
	d := &r.CMCD
	row := edgelog.Row{At: r.Time, Duration: r.Duration, FirstByte: r.FirstByte, Status: int64(r.Status), Bytes: r.Bytes, ConnRequests: int64(r.ConnRequests), Client: network(r),
		Method: r.Method, Route: r.Route, Key: r.Key, Range: r.Range, Tier: string(r.Tier), Cache: r.Cache, PlayID: r.PlayID, SessionID: r.Session(), UserAgent: r.UserAgent,
		Referer: r.Referer, Proto: r.Proto, TLS: r.TLS, BufferMS: -1, DeadlineMS: -1, RateThousandths: -1}
	if d.Empty() {
		return row
	}
	row.Version, row.Object, row.Format, row.Stream, row.State, row.Content = max(1, d.Version), d.ObjectType, d.Format, d.StreamType, d.State, d.ContentID
	row.BitrateKbps, row.TopKbps, row.ThroughputKbps, row.RequestedKbps = cmp.Or(d.BitrateKbps, d.AggregateKbps), cmp.Or(d.TopKbps, d.TopAggregateKbps), d.ThroughputKbps, d.RequestedKbps
	row.DurationMS, row.Sequence, row.Startup, row.Starved = d.DurationMS, d.Sequence, d.Startup, d.Starved
	if d.Has("bl") {
		row.BufferMS = d.BufferMS
	}
	if d.Has("dl") {
		row.DeadlineMS = d.DeadlineMS
	}
	if d.Has("pr") {
		row.RateThousandths = int64(d.Rate * 1000)
	}
	return row
}

// network is what of the client's address may leave the edge: what coarse leaves of it, as a network.
func network(r *Record) string {
	a := coarse(r.Client)
	if !a.IsValid() {
		return ""
	}
	bits := 48
	if a.Is4() {
		bits = 24
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return ""
	}
	return p.String()
}
