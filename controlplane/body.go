package controlplane

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"segue/controlplane/api"
	"segue/media"

	"github.com/danielgtaylor/huma/v2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Limits of one operation, in its metadata.
const (
	// longPoll is for an operation that waits for news: it takes no place in service and has a minute.
	longPoll = "long-poll"
	// streams is for an operation whose body or answer is not held in memory: the gateway leaves both alone.
	streams = "streams"
	// encoded is for an operation whose body may have a Content-Encoding: gzip or zstd.
	encoded = "encoded"
)

// maxDecoded bounds a body that came compressed, in bytes after that.
const maxDecoded = 8 << 20

const (
	bodyTime  = 10 * time.Second // for a body to arrive, unless the operation says otherwise
	workTime  = 20 * time.Second // for the work of an operation
	pollTime  = time.Minute      // for that of a long poll
	writeTime = 30 * time.Second // for the client to take the answer
)

func flagged(op *huma.Operation, flag string) bool { on, _ := op.Metadata[flag].(bool); return on }

// takeBody reads the whole body before anything is done for it, so that a slow sender holds nothing but its connection,
// and refuses what no database keeps: text that is not UTF-8, and NUL, wherever it may stand.
func (cp *ControlPlane) takeBody(op *huma.Operation, next http.Handler) http.Handler {
	if flagged(op, streams) {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := plainText(r); err != nil {
				cp.writeProblem(w, r, err)
				return
			}
			_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // as long as it takes
			next.ServeHTTP(w, r)
		})
	}
	work, forBody, atMost := workTime, op.BodyReadTimeout, op.MaxBodyBytes
	op.BodyReadTimeout, op.MaxBodyBytes = 0, -1 // huma need not do it again
	if flagged(op, longPoll) {
		work = pollTime
	}
	if forBody <= 0 {
		forBody = bodyTime
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := plainText(r); err != nil {
			cp.writeProblem(w, r, err)
			return
		}
		conn := http.NewResponseController(w)
		if r.Body != nil && r.Body != http.NoBody {
			_ = conn.SetReadDeadline(time.Now().Add(forBody)) // not there in tests without a connection
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, atMost))
			if err == nil { // else the deadline stays for what the server still drains
				_ = conn.SetReadDeadline(time.Time{})
				if coding := r.Header.Get("Content-Encoding"); coding != "" && flagged(op, encoded) {
					body, err = decode(coding, body)
					r.Header.Del("Content-Encoding")
				}
			}
			if err == nil {
				if kind := r.Header.Get("Content-Type"); kind != "" || textual(op) {
					err = plainBody(kind, body)
				}
			}
			if err != nil {
				cp.writeProblem(w, r, bodyError(err))
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		_ = conn.SetWriteDeadline(time.Now().Add(work + writeTime))
		ctx, cancel := cp.bounded(r.Context(), work, flagged(op, longPoll))
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func bodyError(err error) error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fmt.Errorf("body: at most %d bytes are taken: %w", tooLarge.Limit, media.ErrTooLarge)
	}
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
		return newProblem(http.StatusRequestTimeout, "timeout", "the body did not arrive in time")
	}
	if _, ok := errors.AsType[*api.Problem](err); ok || errors.Is(err, media.ErrInvalid) || errors.Is(err, media.ErrTooLarge) {
		return err
	}
	return fmt.Errorf("body: %v: %w", err, media.ErrInvalid) // broken off, or badly framed
}

// plainText refuses a path or query that holds NUL or is not UTF-8, and mends such headers.
func plainText(r *http.Request) error {
	if !plain(r.URL.Path) {
		return fmt.Errorf("path: not UTF-8, or it holds NUL: %w", media.ErrInvalid)
	}
	if r.URL.RawQuery != "" {
		q, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return fmt.Errorf("query: not well escaped: %w", media.ErrInvalid)
		}
		for name, values := range q {
			if !plain(name) || !plain(strings.Join(values, "")) {
				return fmt.Errorf("query: not UTF-8, or it holds NUL: %w", media.ErrInvalid)
			}
		}
	}
	for _, values := range r.Header {
		for i, v := range values {
			if !utf8.ValidString(v) {
				values[i] = strings.ToValidUTF8(v, "?")
			}
		}
	}
	return nil
}

func plain(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// textual says that an operation's body is text when its request does not say what it is.
func textual(op *huma.Operation) bool {
	if op.RequestBody == nil {
		return true
	}
	for kind := range op.RequestBody.Content {
		if strings.Contains(kind, "json") || strings.HasPrefix(kind, "text/") {
			return true
		}
	}
	return false
}

// plainBody does the same for a body that is text.
func plainBody(contentType string, body []byte) error {
	kind, _, err := mime.ParseMediaType(contentType)
	if contentType != "" && err != nil {
		return newProblem(http.StatusUnsupportedMediaType, "unsupported-media-type", "Content-Type is no media type")
	}
	switch {
	case kind != "" && !strings.HasPrefix(kind, "text/") && !strings.Contains(kind, "json") && kind != "application/x-www-form-urlencoded" && kind != "application/cmcd":
		return nil
	case !utf8.Valid(body):
		return fmt.Errorf("body: not UTF-8: %w", media.ErrInvalid)
	case bytes.IndexByte(body, 0) >= 0 || escapedNUL(body):
		return fmt.Errorf("body: it holds NUL, which no text here may: %w", media.ErrInvalid)
	}
	return nil
}

// escapedNUL finds \u0000 in JSON, where the backslash is not itself escaped.
func escapedNUL(body []byte) bool {
	for from := 0; ; {
		i := bytes.Index(body[from:], []byte(`\u0000`))
		if i < 0 {
			return false
		}
		at, slashes := from+i, 0
		for at-slashes >= 0 && body[at-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 1 {
			return true
		}
		from = at + 1
	}
}

// decode undoes a Content-Encoding, within maxDecoded.
func decode(coding string, body []byte) ([]byte, error) {
	var in io.Reader
	switch strings.ToLower(strings.TrimSpace(coding)) {
	case "identity":
		return body, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, fmt.Errorf("body: not gzip: %w", media.ErrInvalid)
		}
		in = z
	case "zstd":
		z, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxDecoded))
		if err != nil {
			return nil, fmt.Errorf("body: not zstd: %w", media.ErrInvalid)
		}
		defer z.Close()
		in = z
	default:
		return nil, newProblem(http.StatusUnsupportedMediaType, "unsupported-media-type", "Content-Encoding may be gzip or zstd")
	}
	out, err := io.ReadAll(io.LimitReader(in, maxDecoded+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("body: badly compressed: %w", media.ErrInvalid)
	case len(out) > maxDecoded:
		return nil, fmt.Errorf("body: at most %d bytes are taken: %w", maxDecoded, media.ErrTooLarge)
	}
	return out, nil
}
