package edge

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"segue/edge/cmcd"
)

const (
	// accessFileSize is how large an access log may become before it is put aside, in bytes.
	accessFileSize = 256 << 20
	// accessFiles is how many files are kept that were put aside: FILE.1 is the newest.
	accessFiles = 4
)

// AccessFile is a Sink that writes records as lines of JSON (NDJSON), to a file that is put aside as FILE.1 when it is
// large, or to a stream.
type AccessFile struct {
	path  string   // empty: a stream
	file  *os.File // nil: could not be opened again, tried at the next batch
	out   io.Writer
	size  int64 // of file
	limit int64
	line  []byte
	torn  bool // the last write ended in the middle of a line
}

// OpenAccessFile opens or continues a file. The path "-" stands for stderr, the stream of a process that is not for
// data.
func OpenAccessFile(path string) (*AccessFile, error) {
	if path == "-" {
		return &AccessFile{out: os.Stderr}, nil
	}
	a := &AccessFile{path: path, limit: accessFileSize}
	return a, a.open()
}

func (a *AccessFile) open() error {
	f, err := os.OpenFile(a.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("access log: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil { // a pipe or a device: never put aside
		size = -1 << 62
	}
	a.file, a.out, a.size = f, f, size
	return nil
}

// Take implements Sink.
func (a *AccessFile) Take(batch []*Record) error {
	a.line = a.line[:0]
	if a.torn {
		a.line = append(a.line, '\n')
	}
	for _, r := range batch {
		a.line = append(r.AppendJSON(a.line), '\n')
	}
	if a.path != "" && a.file != nil && a.size > 0 && a.size+int64(len(a.line)) > a.limit {
		if err := a.rotate(); err != nil {
			return err
		}
	}
	if a.path != "" && a.file == nil {
		if err := a.open(); err != nil {
			return err
		}
	}
	n, err := a.out.Write(a.line)
	a.size += int64(n)
	if n > 0 {
		a.torn = a.line[n-1] != '\n'
	}
	if err != nil {
		return fmt.Errorf("access log: %w", err)
	}
	return nil
}

// rotate puts the file aside. After an error the file is open no more, or still the old one: the next batch tries again.
func (a *AccessFile) rotate() error {
	if err := a.Close(); err != nil {
		return err
	}
	name := func(n int) string { return a.path + "." + strconv.Itoa(n) }
	for n := accessFiles - 1; n > 0; n-- {
		if err := os.Rename(name(n), name(n+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("access log: %w", err)
		}
	}
	if err := os.Rename(a.path, name(1)); err != nil {
		return fmt.Errorf("access log: %w", err)
	}
	return a.open()
}

// Close closes the file.
func (a *AccessFile) Close() error {
	if a.file == nil {
		return nil
	}
	f := a.file
	a.file, a.out = nil, nil
	if err := f.Close(); err != nil {
		return fmt.Errorf("access log: %w", err)
	}
	return nil
}

// AppendJSON appends a record as a JSON object. Empty fields are left out, but for key, status and bytes.
func (r *Record) AppendJSON(b []byte) []byte {
	text := func(name, value string) {
		if value != "" {
			b = append(append(append(b, `,"`...), name...), `":`...)
			b = cmcd.AppendString(b, value)
		}
	}
	number := func(name string, n int64) {
		b = append(append(append(b, `,"`...), name...), `":`...)
		b = strconv.AppendInt(b, n, 10)
	}
	b = append(b, `{"time":"`...)
	b = r.Time.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	number("dur_us", r.Duration.Microseconds())
	if r.FirstByte > 0 {
		number("first_byte_us", r.FirstByte.Microseconds())
	}
	if r.Client.IsValid() {
		b = append(r.Client.AppendTo(append(b, `,"client":"`...)), '"')
	}
	text("method", r.Method)
	text("route", r.Route)
	b = cmcd.AppendString(append(b, `,"key":`...), r.Key)
	number("status", int64(r.Status))
	number("bytes", r.Bytes)
	text("range", r.Range)
	text("tier", string(r.Tier))
	text("cache", r.Cache)
	text("session", r.Session())
	text("play", r.PlayID)
	text("user_agent", r.UserAgent)
	text("referer", r.Referer)
	text("proto", r.Proto)
	text("tls", r.TLS)
	if r.ConnRequests > 0 {
		number("conn_requests", int64(r.ConnRequests))
	}
	if !r.CMCD.Empty() {
		b = r.CMCD.AppendJSON(append(b, `,"cmcd":`...))
	}
	return append(b, '}')
}
