package main

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/catalog/sample"
	"segue/controlplane/store"
	"segue/media"

	"github.com/oklog/ulid/v2"
	"github.com/schollz/progressbar/v3"
)

const benchPassword = "the password of everybody here"

// world is what listeners of the benchmark know: ids of what there is, and their sessions.
type world struct {
	platform                            *platform
	http                                *http.Client
	tracks, playable, albums, playlists zipfIDs
	texts                               []string // that people look for
	sessions                            []*session
}

// session is one listener on one device.
type session struct {
	bearer  atomic.Value // string, of the header
	refresh string
	renewed time.Time
}

func (b *apiBench) newWorld(ctx context.Context, p *platform) (*world, error) {
	w := &world{platform: p, http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 1000, MaxConnsPerHost: 1000, IdleConnTimeout: time.Minute}}}
	db, err := store.Open(ctx, p.dsn)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	for _, q := range []struct {
		text string
		to   *zipfIDs
	}{{`SELECT id FROM tracks WHERE removed_at = 0 ORDER BY id`, &w.tracks}, {`SELECT id FROM tracks WHERE removed_at = 0 AND version <> '' AND available_in = '' AND album_id IN (SELECT id FROM albums WHERE available_in = '') ORDER BY id`, &w.playable},
		{`SELECT id FROM albums WHERE removed_at = 0 ORDER BY id`, &w.albums}, {`SELECT id FROM playlists WHERE public = 1 ORDER BY id`, &w.playlists}} {
		ids, err := column(ctx, db, q.text)
		if err != nil {
			return nil, err
		}
		if len(ids) == 0 {
			return nil, fmt.Errorf("%s: nothing is there; delete %s to make the database again", q.text, p.dir)
		}
		*q.to = newZipf(ids)
	}
	for _, q := range []string{`SELECT title FROM tracks WHERE removed_at = 0 ORDER BY popularity DESC LIMIT 20000`, `SELECT name FROM artists WHERE removed_at = 0 ORDER BY popularity DESC LIMIT 20000`} {
		texts, err := column(ctx, db, q)
		if err != nil {
			return nil, err
		}
		w.texts = append(w.texts, texts...)
	}
	bar := newBar(b.listeners, "sign in")
	for i := range b.listeners {
		c, err := api.NewClient("http://"+p.replicas[i%len(p.replicas)].listen, nil)
		if err != nil {
			return nil, err
		}
		got, err := c.SignIn(ctx, api.NewSession{Email: email(i), Password: benchPassword, Device: api.Device{Type: "web", Name: "Browser"}})
		if err != nil {
			return nil, fmt.Errorf("sign in: %w", err)
		}
		s := &session{}
		s.take(got)
		w.sessions = append(w.sessions, s)
		bar.Add(1)
	}
	bar.Finish()
	return w, nil
}

func (s *session) take(got api.Session) {
	s.bearer.Store("Bearer " + got.AccessToken)
	s.refresh, s.renewed = got.RefreshToken, time.Now()
}

// renew changes tokens that would end within the next measurements.
func (w *world) renew(ctx context.Context) error {
	for _, s := range w.sessions {
		if time.Since(s.renewed) < 3*time.Minute {
			continue
		}
		got, err := w.platform.admin.Refresh(ctx, api.Refresh{RefreshToken: s.refresh})
		if err != nil {
			return fmt.Errorf("refresh: %w", err)
		}
		s.take(got)
	}
	return nil
}

func (w *world) close() { w.http.CloseIdleConnections() }

func column(ctx context.Context, db *store.DB, query string) (out []string, err error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

func email(i int) string { return "u" + strconv.Itoa(i) + "@bench.example" }

func newBar(n int, what string) *progressbar.ProgressBar {
	return progressbar.NewOptions(n, progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetDescription(fmt.Sprintf("%-20s", what)), progressbar.OptionShowCount(), progressbar.OptionShowIts(),
		progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(200*time.Millisecond), progressbar.OptionOnCompletion(func() { fmt.Fprintln(os.Stderr) }))
}

// make fills a database: the catalogue by the API, as an operator would; people, playlists and the audio of tracks, of which
// only the rows are needed, by SQL. What is derived is left to be made at the next start.
func (b *apiBench) make(ctx context.Context, p *platform) error {
	if err := p.start(b.program, "one", 1, 0); err != nil {
		return err
	}
	defer p.stopReplicas()
	bar := newBar(b.tracks, "catalogue")
	var part bytes.Buffer
	lines, first, tracks := 0, 1, 0
	send := func() error {
		r, err := p.admin.Import(ctx, first, &part)
		if err == nil && r.Failed > 0 {
			err = fmt.Errorf("%d lines were refused: %+v", r.Failed, r.Errors[0])
		}
		bar.Add(tracks)
		first, tracks = lines+1, 0
		part.Reset()
		return err
	}
	for l := range sample.Lines(1, b.tracks) {
		if err := json.NewEncoder(&part).Encode(l); err != nil {
			return fmt.Errorf("bug: %w", err)
		}
		lines++
		if l.Type == "track" {
			tracks++
		}
		if part.Len() > 8<<20 {
			if err := send(); err != nil {
				return err
			}
		}
	}
	if err := send(); err != nil {
		return err
	}
	bar.Finish()
	if _, err := p.admin.SignUp(ctx, api.NewUser{Email: "first@bench.example", Password: benchPassword, DisplayName: "First"}); err != nil {
		if p, ok := errors.AsType[*api.Problem](err); !ok || p.Status != http.StatusConflict {
			return err
		}
	}
	p.stopReplicas()
	db, err := store.Open(ctx, p.dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := b.fill(ctx, db); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(p.dir, "data-one", "search"))
}

func (b *apiBench) fill(ctx context.Context, db *store.DB) error {
	fmt.Fprintln(os.Stderr, "audio of the tracks")
	renditions, loudness := audio()
	if _, err := db.ExecContext(ctx, `UPDATE tracks SET version = $1, renditions = $2, loudness = $3`, strings.Repeat("b", 26), renditions, loudness); err != nil {
		return err
	}
	for _, table := range []string{"playlists", "users"} { // of an attempt that did not come to its end; what refers to them goes with them
		if _, err := db.ExecContext(ctx, `DELETE FROM `+table+` WHERE `+map[string]string{"playlists": "1 = 1", "users": "email_key <> 'first@bench.example'"}[table]); err != nil {
			return err
		}
	}
	var hash string
	if err := db.QueryRowContext(ctx, `SELECT password_hash FROM users WHERE email_key = 'first@bench.example'`).Scan(&hash); err != nil {
		return err
	}
	rng, now := rand.New(rand.NewPCG(2, 2)), store.Micros(time.Now())
	var users []string
	err := b.insert(ctx, db, "users", b.users, `users (id, email, email_key, display_name, password_hash, plan, created_at, discoverable)`, func(i int) [][]any {
		id := ulid.Make().String()
		users = append(users, id)
		plan := api.PlanFree
		if i%3 == 0 {
			plan = api.PlanPremium
		}
		return [][]any{{id, email(i), email(i), fmt.Sprintf("Listener %d", i), hash, string(plan), now, min(1, (i+9)%10/9)}}
	})
	if err != nil {
		return err
	}
	var songs []song
	rows, err := db.QueryContext(ctx, `SELECT t.id, t.album_id, t.title, a.name, t.duration_ms FROM tracks t JOIN artists a ON a.id = t.artist_id ORDER BY t.id LIMIT 300000`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var s song
		if err := rows.Scan(&s.track, &s.album, &s.title, &s.artist, &s.length); err != nil {
			return err
		}
		songs = append(songs, s)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	const each = 20 // rows of a playlist in the mean
	type list struct {
		id, owner string
		items     []song
	}
	lists := make([]list, max(1, b.items/each))
	left := b.items
	for i := range lists {
		n := min(left, 1+rng.IntN(2*each-1))
		if i == len(lists)-1 {
			n = min(left, 10_000)
		}
		left -= n
		lists[i] = list{ulid.Make().String(), users[rng.IntN(len(users))], make([]song, n)}
		for k := range lists[i].items {
			lists[i].items[k] = songs[rng.IntN(len(songs))]
		}
	}
	err = b.insert(ctx, db, "playlists", len(lists), `playlists (id, owner_id, name, description, public, cover, mosaic, item_count, duration_ms, followers, revision, kept_from, created_at, updated_at)`, func(i int) [][]any {
		l := lists[i]
		length := int64(0)
		for _, s := range l.items {
			length += s.length
		}
		name := "Playlist"
		if len(l.items) > 0 {
			name = l.items[0].title + " & more"
		}
		return [][]any{{l.id, l.owner, name, "", 1, "", "[]", len(l.items), length, 0, 2, 2, now, now}}
	})
	if err != nil {
		return err
	}
	return b.insert(ctx, db, "playlist rows", len(lists), `playlist_items (playlist_id, entry_id, from_revision, to_revision, origin, position, track_id, album_id, title, artist, duration_ms, added_by, added_at)`, func(i int) (out [][]any) {
		for k, s := range lists[i].items {
			out = append(out, []any{lists[i].id, ulid.Make().String(), 2, int64(1<<63 - 1), 2, int64(k) << 36, s.track, s.album, s.title, s.artist, s.length, lists[i].owner, now})
		}
		return out
	})
}

type song struct {
	track, album, title, artist string
	length                      int64
}

// insert writes rows in big transactions; into is the table with its columns, and made makes the rows of one item.
func (b *apiBench) insert(ctx context.Context, db *store.DB, what string, items int, into string, made func(i int) [][]any) error {
	bar := newBar(items, what)
	defer bar.Finish()
	for from := 0; from < items; {
		var rows [][]any
		begun := from
		for ; from < items && len(rows) < 20_000; from++ {
			rows = append(rows, made(from)...)
		}
		if err := db.Tx(ctx, func(tx *sql.Tx) error {
			for some := range slices.Chunk(rows, 32) {
				var lines []string
				var args []any
				for _, r := range some {
					marks := make([]string, len(r))
					for i := range r {
						marks[i] = "$" + strconv.Itoa(len(args)+i+1)
					}
					lines, args = append(lines, "("+strings.Join(marks, ", ")+")"), append(args, r...)
				}
				if _, err := tx.ExecContext(ctx, `INSERT INTO `+into+` VALUES `+strings.Join(lines, ", "), args...); err != nil {
					return fmt.Errorf("%s: %w", what, err)
				}
			}
			return nil
		}); err != nil {
			return err
		}
		bar.Add(from - begun)
	}
	return nil
}

// audio is what a track's row says of five renditions of four minutes, as the packager writes it.
func audio() (renditions, loudness string) {
	var list []media.Rendition
	for _, r := range []struct {
		name, codec string
		bps         int
	}{{"aac_96", "mp4a.40.2", 96_000}, {"opus_128", "Opus", 128_000}, {"aac_160", "mp4a.40.2", 160_000}, {"aac_256", "mp4a.40.2", 256_000}, {"flac", "fLaC", 900_000}} {
		list = append(list, media.Rendition{Name: r.name, File: r.name + ".mp4", Codec: r.codec, BitrateBps: r.bps, AverageBps: r.bps + 1234, PeakBps: r.bps * 5 / 4, SampleRateHz: 44100, Channels: 2,
			Lossless: r.name == "flac", Size: int64(r.bps) / 8 * 240, SHA256: strings.Repeat("0123456789abcdef", 4), Init: media.ByteSpan{Size: 780}, Index: media.ByteSpan{Offset: 780, Size: 756},
			Timescale: 44100, Gapless: media.Gapless{Priming: 1024, Samples: 44100 * 240, Padding: 512}})
	}
	r, err := json.Marshal(list)
	l, err2 := json.Marshal(media.Loudness{IntegratedLUFS: -9.3, TruePeakDBTP: -0.4, RangeLU: 5.1})
	if err := cmp.Or(err, err2); err != nil {
		panic("bug: " + err.Error())
	}
	return string(r), string(l)
}
