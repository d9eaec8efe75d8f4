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
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" || u.User == nil {
		return errors.New("clickhouse URL: want http://user:password@host:8123/database")
	}
	password, _ := u.User.Password()
	q := url.Values{"database": {strings.Trim(u.Path, "/")}, "default_format": {format}}
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
		return fmt.Errorf("clickhouse: %s", strings.TrimSpace(string(b)))
	}
	_, err = io.Copy(w, resp.Body)
	return err
}
