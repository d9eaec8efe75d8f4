package controlplane

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/klauspost/compress/gzip"
)

// held keeps an answer in memory until it is whole: it can be named by its content, kept for a repeat, or be replaced
// by a problem when its making fails.
type held struct {
	http.ResponseWriter // only for its header and what is below it
	status              int
	body                bytes.Buffer
}

func (h *held) WriteHeader(status int) {
	if h.status == 0 && status >= 200 {
		h.status = status
	}
}

func (h *held) Write(b []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	return h.body.Write(b)
}

// Unwrap is for http.ResponseController.
func (h *held) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// gzipFrom: below it, the header and the work cost more than is saved.
const gzipFrom = 1 << 10

var zippers = sync.Pool{New: func() any { w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed); return w }}

// zipped marks the entity tag of a representation in gzip: RFC 9110 8.8.3.3, another coding is another strong validator.
const zipped = `-gzip"`

// represent is the one place where answers get what HTTP says of representations: a strong entity tag (the handler's,
// or the content's hash), If-None-Match, Cache-Control, Vary, gzip. A handler sees the tags of If-Match and If-None-Match
// as it made them.
func (cp *ControlPlane) represent(op *huma.Operation, next http.Handler) http.Handler {
	if flagged(op, streams) {
		return next
	}
	reads, private := op.Method == http.MethodGet, op.Metadata[need] != nil
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		known := r.Header.Get("If-None-Match")
		for _, name := range []string{"If-Match", "If-None-Match"} {
			if tags := r.Header.Get(name); strings.Contains(tags, zipped) {
				r.Header.Set(name, strings.ReplaceAll(tags, zipped, `"`))
			}
		}
		out := &held{ResponseWriter: w}
		next.ServeHTTP(out, r)
		h := w.Header()
		if out.status == 0 {
			out.status = http.StatusOK
		}
		if out.status >= 400 {
			if out.status != http.StatusPreconditionFailed { // whose ETag is what to come back with
				h.Del("ETag")
			}
			h.Del("Last-Modified")
			h.Del("Content-Encoding")
			h.Set("Cache-Control", "no-store")
		} else if h.Get("Cache-Control") == "" {
			switch {
			case !reads:
				h.Set("Cache-Control", "no-store")
			case private:
				h.Set("Cache-Control", "private, no-cache")
			default:
				h.Set("Cache-Control", "no-cache")
			}
		}
		if private {
			h.Add("Vary", "Authorization")
		}
		h.Add("Vary", "Accept-Encoding")
		// A handler's own is the revision of a thing, for If-Match: what else its answer shows may have changed since.
		ours := h.Get("ETag") == ""
		if reads && out.status == http.StatusOK && ours {
			sum := sha256.Sum256(out.body.Bytes())
			h.Set("ETag", `"`+hex.EncodeToString(sum[:12])+`"`)
		}
		zip := out.body.Len() >= gzipFrom && h.Get("Content-Encoding") == "" && acceptsGzip(r.Header.Values("Accept-Encoding")) && strings.Contains(h.Get("Content-Type"), "json")
		if reads && (out.status == http.StatusOK && ours || out.status == http.StatusNotModified) && matches(known, h.Get("ETag")) {
			if zip && strings.Contains(known, strings.TrimSuffix(h.Get("ETag"), `"`)+zipped) {
				h.Set("ETag", strings.TrimSuffix(h.Get("ETag"), `"`)+zipped)
			}
			h.Del("Content-Type")
			h.Del("Content-Length")
			w.WriteHeader(http.StatusNotModified)
			return
		}
		if out.status == http.StatusNoContent || out.status == http.StatusNotModified {
			h.Del("Content-Type")
			w.WriteHeader(out.status)
			return
		}
		body := out.body.Bytes()
		if zip {
			var b bytes.Buffer
			z := zippers.Get().(*gzip.Writer)
			z.Reset(&b)
			_, _ = z.Write(body) // to memory: it cannot fail
			_ = z.Close()
			zippers.Put(z)
			body = b.Bytes()
			h.Set("Content-Encoding", "gzip")
			if tag := h.Get("ETag"); tag != "" {
				h.Set("ETag", strings.TrimSuffix(tag, `"`)+zipped)
			}
		}
		h.Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(out.status)
		if r.Method != http.MethodHead {
			_, _ = w.Write(body) // the client may be gone
		}
	})
}

// matches compares weakly, as RFC 9110 13.1.2 says of If-None-Match; what differs by its coding only is the same here.
func matches(list, tag string) bool {
	if list == "" || tag == "" {
		return false
	}
	for t := range strings.SplitSeq(list, ",") {
		t = strings.TrimPrefix(strings.TrimSpace(t), "W/")
		if t == "*" || t == tag || strings.TrimSuffix(t, zipped)+`"` == tag {
			return true
		}
	}
	return false
}

// acceptsGzip reads Accept-Encoding: named, or all by *, and not with a weight of nothing.
func acceptsGzip(headers []string) bool {
	star := false
	for part := range strings.SplitSeq(strings.Join(headers, ","), ",") {
		name, params, _ := strings.Cut(strings.ToLower(strings.TrimSpace(part)), ";")
		weight, weighted := strings.CutPrefix(strings.ReplaceAll(params, " ", ""), "q=")
		q, err := strconv.ParseFloat(weight, 64)
		yes := !weighted || err == nil && q > 0
		switch strings.TrimSpace(name) {
		case "gzip", "x-gzip":
			return yes
		case "*":
			star = yes
		}
	}
	return star
}
