package plays

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Query asks ClickHouse over HTTP and copies the answer, in the format that the statement or `format` names, to w. The
// URL is http://user:password@host:8123/database.
func Query(ctx context.Context, rawURL, sql, format string, w io.Writer) error {
	return Ask(ctx, rawURL, sql, format, nil, w)
}

// Refused is what ClickHouse says to a statement that it does not take.
type Refused string

func (r Refused) Error() string { return "clickhouse: " + string(r) }

// Ask is Query with settings of ClickHouse. Errors: Refused; what w returns.
func Ask(ctx context.Context, rawURL, sql, format string, settings map[string]string, w io.Writer) error {
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" || u.User == nil {
		return errors.New("clickhouse URL: want http://user:password@host:8123/database")
	}
	password, _ := u.User.Password()
	q := url.Values{"database": {strings.Trim(u.Path, "/")}, "default_format": {format}}
	for k, v := range settings {
		q.Set(k, v)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.Scheme+"://"+u.Host+"/?"+q.Encode(), strings.NewReader(sql))
	if err != nil {
		return err
	}
	req.Header.Set("X-ClickHouse-User", u.User.Username())
	req.Header.Set("X-ClickHouse-Key", password)
	resp, err := (&http.Client{Timeout: 5 * time.Minute}).Do(req)
	if err != nil {
		return fmt.Errorf("clickhouse at %s: %w", u.Host, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return Refused(strings.TrimSpace(string(b)))
	}
	_, err = io.Copy(w, resp.Body)
	return err
}
