package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// ProbeResult is what a probe found. Certain: the node itself says no.
type ProbeResult struct {
	OK, Certain bool
	Error       string // for people; empty when OK
}

// prober keeps a connection to each edge, so that a probe costs one round trip; and follows nothing: where an edge points to
// is none of our business.
var prober = &http.Client{
	Transport:     &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: 2 * time.Second, ResponseHeaderTimeout: 2 * time.Second},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// ProbeHTTP asks an edge at the URL that players use whether it is ready.
func ProbeHTTP(ctx context.Context, url string) ProbeResult {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/readyz", nil)
	if err != nil {
		return ProbeResult{Error: err.Error()}
	}
	req.Header.Set("User-Agent", "segue-probe")
	resp, err := prober.Do(req)
	if err != nil {
		text := err.Error()
		if _, short, ok := strings.Cut(text, ": "); ok { // without the URL
			text = short
		}
		return ProbeResult{Certain: errors.Is(err, syscall.ECONNREFUSED), Error: text}
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4096) // so that the connection can be used again
	if resp.StatusCode != http.StatusOK {
		return ProbeResult{Certain: true, Error: resp.Status}
	}
	return ProbeResult{OK: true}
}
