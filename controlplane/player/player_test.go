package player_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/player"
	"segue/controlplane/store"
	"segue/internal/testenv"
	"segue/media"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
)

// bus carries notices between replicas of a test, unless it is down.
type bus struct {
	down atomic.Bool

	mu   sync.Mutex // guards subs
	subs map[chan []byte]bool
}

func (b *bus) notices() player.Notices {
	return player.Notices{
		Publish: func(body []byte) error {
			if b.down.Load() {
				return errors.New("out of reach")
			}
			b.mu.Lock()
			defer b.mu.Unlock()
			for c := range b.subs {
				select {
				case c <- body:
				default:
				}
			}
			return nil
		},
		Subscribe: func(ctx context.Context, ready func(), take func([]byte)) error {
			c := make(chan []byte, 1000)
			b.mu.Lock()
			b.subs[c] = true
			b.mu.Unlock()
			ready()
			for {
				select {
				case <-ctx.Done():
					return nil
				case body := <-c:
					take(body)
				}
			}
		},
		Connected: func() bool { return !b.down.Load() },
	}
}

// world is one database and one bus, on which replicas are started.
type world struct {
	t     *testing.T
	db    *store.DB
	bus   bus
	ended sync.Map // sessions that are over
}

func newWorld(t *testing.T, dsn string) *world {
	t.Helper()
	db, err := store.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return &world{t: t, db: db, bus: bus{subs: map[chan []byte]bool{}}}
}

// TestPlayer runs everything on SQLite and on PostgreSQL, each on a database of its own.
func TestPlayer(t *testing.T) {
	all := map[string]func(*testing.T, *world){"queue": queue, "state": state, "transfer": transfer, "race": race, "resume": resume, "downtime": downtime, "dead": dead, "sessions": sessions, "personal": personal}
	t.Run("sqlite", func(t *testing.T) {
		for name, f := range all {
			t.Run(name, func(t *testing.T) { f(t, newWorld(t, "sqlite:"+t.TempDir()+"/segue.db")) })
		}
	})
	t.Run("postgres", func(t *testing.T) {
		server := testenv.Postgres(t)
		db, err := sql.Open("pgx", server)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for name, f := range all {
			t.Run(name, func(t *testing.T) {
				if _, err := db.ExecContext(t.Context(), `CREATE DATABASE `+name); err != nil {
					t.Fatal(err)
				}
				f(t, newWorld(t, strings.Replace(server, "/postgres?", "/"+name+"?", 1)))
			})
		}
	})
}

// still is a replica that is not running: nothing happens in it by itself.
func (w *world) still() *player.Service {
	w.t.Helper()
	s := player.New(w.db, w.bus.notices(), player.Sources{
		Devices: func(context.Context, string) (map[string]api.Device, error) {
			return map[string]api.Device{"phone": {Type: "phone", Name: "Téléphone"}}, nil
		},
		Ended: func(id string) bool { _, over := w.ended.Load(id); return over },
		Tracks: func(_ context.Context, ids ...string) (out []api.Track, err error) {
			for _, id := range ids {
				out = append([]api.Track{{ID: media.TrackID(id)}}, out...)
			}
			return out, nil
		},
	}, slog.New(slog.DiscardHandler))
	w.must(s.Beat(w.t.Context()))
	return s
}

func (w *world) replica() *player.Service {
	w.t.Helper()
	s := w.still()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	return s
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) is(err, want error) {
	w.t.Helper()
	if !errors.Is(err, want) {
		w.t.Errorf("got %v, want %v", err, want)
	}
}

func (w *world) user() string {
	w.t.Helper()
	id := ulid.Make().String()
	_, err := w.db.ExecContext(w.t.Context(), `INSERT INTO users (id, email, email_key, display_name, password_hash, plan, created_at) VALUES ($1, $2, $2, 'x', '', 'free', 0)`, id, id+"@example.org")
	w.must(err)
	return id
}

func tracks(n int) []media.TrackID {
	out := make([]media.TrackID, n)
	for i := range out {
		out[i] = media.TrackID(ulid.Make().String())
	}
	return out
}

// ear is a device that listens on its stream.
type ear struct {
	*player.Stream
	t *testing.T
	player.Event
	events []player.Event // all so far
}

func (w *world) listen(s *player.Service, user, device string, after int64) *ear {
	w.t.Helper()
	st, err := s.Open(w.t.Context(), player.Opening{UserID: user, SessionID: "session of " + device, DeviceID: device, Plays: device != "remote", After: after})
	w.must(err)
	w.t.Cleanup(st.Close)
	return &ear{Stream: st, t: w.t}
}

// until reads events until one is as f wants it.
func (e *ear) until(what string, f func(player.Event) bool) player.Event {
	e.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		events, err := e.Next(e.t.Context(), 10*time.Second)
		if err != nil {
			e.t.Fatalf("%s: %v", what, err)
		}
		e.events = append(e.events, events...)
		for _, got := range events {
			if got.ID != 0 {
				e.Event.ID = got.ID
			}
		}
		for _, got := range events {
			if f(got) {
				return got
			}
		}
	}
	e.t.Fatalf("not in time: %s; came: %+v", what, e.events)
	return player.Event{}
}

func (e *ear) command(kind string) api.Command {
	e.t.Helper()
	return e.until("command "+kind, func(v player.Event) bool { c, ok := v.Data.(api.Command); return ok && c.Type == kind }).Data.(api.Command)
}

// drain reads what is there already.
func (e *ear) drain() []player.Event {
	e.t.Helper()
	for {
		events, err := e.Next(e.t.Context(), 50*time.Millisecond)
		if err != nil {
			e.t.Fatal(err)
		}
		if len(events) == 0 {
			return e.events
		}
		e.events = append(e.events, events...)
	}
}

func queue(t *testing.T, w *world) {
	ctx, s, ada := t.Context(), w.replica(), w.user()
	names := map[media.TrackID]string{}
	ids := tracks(9)
	for i, id := range ids {
		names[id] = string(rune('a' + i))
	}
	var q api.Queue
	looks := func(want string) {
		t.Helper()
		var err error
		q, err = s.Queue(ctx, ada, 3)
		w.must(err)
		got := ""
		for _, e := range q.Entries {
			if e.ID == q.CurrentID {
				got += "*"
			}
			got += names[e.TrackID]
		}
		if got != want {
			t.Errorf("queue is %s, want %s", got, want)
		}
	}
	looks("")
	if q.Revision != 0 || q.Repeat != api.RepeatOff {
		t.Errorf("%+v", q)
	}
	album := ulid.Make().String()
	put, err := s.PutQueue(ctx, ada, 0, api.NewQueue{TrackIDs: ids[:4], Current: 1, PositionMS: 1234, Shuffle: true, Context: &api.PlayContext{Type: api.ContextAlbum, ID: album}})
	w.must(err)
	looks("a*bcd")
	if q.Revision != put.Revision || q.PositionMS != 1234 || !q.Shuffle || q.Context == nil || q.Context.ID != album {
		t.Errorf("%+v", q)
	}
	var expanded []media.TrackID
	for _, tr := range q.Tracks {
		expanded = append(expanded, tr.ID)
	}
	if d := cmp.Diff(expanded, ids[1:4]); d != "" {
		t.Error(d)
	}
	entry := func(i int) string { return q.Entries[i].ID }

	_, err = s.PutQueue(ctx, ada, 0, api.NewQueue{TrackIDs: ids[:1]})
	w.is(err, media.ErrChanged)
	_, err = s.AddEntries(ctx, ada, put.Revision, api.NewEntries{TrackIDs: ids[4:6]})
	w.must(err)
	looks("a*bcdef")
	_, err = s.AddEntries(ctx, ada, put.Revision, api.NewEntries{TrackIDs: ids[6:7]})
	w.is(err, media.ErrChanged)
	_, err = s.AddEntries(ctx, ada, player.AnyRevision, api.NewEntries{TrackIDs: []media.TrackID{ids[6], ids[0]}, Next: true})
	w.must(err)
	looks("a*bgacdef")
	_, err = s.MoveEntry(ctx, ada, q.Revision, entry(7), api.MoveEntry{Before: entry(0)})
	w.must(err)
	looks("fa*bgacde")
	_, err = s.MoveEntry(ctx, ada, q.Revision, entry(2), api.MoveEntry{})
	w.must(err)
	looks("fagacde*b")
	_, err = s.MoveEntry(ctx, ada, q.Revision, "nobody", api.MoveEntry{})
	w.is(err, media.ErrNotFound)
	_, err = s.MoveEntry(ctx, ada, q.Revision, entry(1), api.MoveEntry{Before: "nobody"})
	w.is(err, media.ErrInvalid)
	_, err = s.RemoveEntry(ctx, ada, q.Revision, entry(7)) // the current one, at the end
	w.must(err)
	looks("fagacd*e")
	before := q.Revision
	gone, err := s.RemoveEntry(ctx, ada, player.AnyRevision, "nobody")
	w.must(err)
	if gone.Revision != before {
		t.Error("a removal of nothing is a change")
	}
	current := entry(2)
	_, err = s.PatchQueue(ctx, ada, q.Revision, api.QueueChange{CurrentID: &current})
	w.must(err)
	looks("fa*gacde")
	if q.Shuffle != true || q.PositionMS != 0 {
		t.Errorf("%+v", q)
	}
	bad := "nobody"
	_, err = s.PatchQueue(ctx, ada, q.Revision, api.QueueChange{CurrentID: &bad})
	w.is(err, media.ErrInvalid)
	looks("fa*gacde")

	// Full: what was played makes room, what is to come does not.
	long := tracks(player.MaxEntries)
	_, err = s.PutQueue(ctx, ada, player.AnyRevision, api.NewQueue{TrackIDs: long, Current: 10})
	w.must(err)
	_, err = s.AddEntries(ctx, ada, player.AnyRevision, api.NewEntries{TrackIDs: tracks(11)})
	w.is(err, media.ErrInvalid)
	_, err = s.AddEntries(ctx, ada, player.AnyRevision, api.NewEntries{TrackIDs: tracks(10)})
	w.must(err)
	q, err = s.Queue(ctx, ada, 0)
	w.must(err)
	if len(q.Entries) != player.MaxEntries || q.Entries[0].ID != q.CurrentID || q.Entries[0].TrackID != long[10] || len(q.Tracks) != 0 {
		t.Errorf("%d entries, current %s, first %+v", len(q.Entries), q.CurrentID, q.Entries[0])
	}
	for _, in := range []api.NewQueue{{TrackIDs: []media.TrackID{"\x00"}}, {TrackIDs: ids[:1], Current: 1}, {Current: 1}, {TrackIDs: tracks(player.MaxEntries + 1)}, {TrackIDs: ids[:1], PositionMS: -1},
		{Context: &api.PlayContext{Type: api.ContextAlbum, ID: "\x00"}}} {
		_, err := s.PutQueue(ctx, ada, player.AnyRevision, in)
		w.is(err, media.ErrInvalid)
	}

	// Many who edit at once lose nothing.
	_, err = s.PutQueue(ctx, ada, player.AnyRevision, api.NewQueue{})
	w.must(err)
	var wg sync.WaitGroup
	for i := range 5 {
		wg.Go(func() {
			for n := range 8 {
				added, err := s.AddEntries(ctx, ada, player.AnyRevision, api.NewEntries{TrackIDs: tracks(2), Next: (i+n)%2 == 0})
				if err == nil {
					_, err = s.RemoveEntry(ctx, ada, player.AnyRevision, added.Entries[0].ID)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	q, err = s.Queue(ctx, ada, 0)
	w.must(err)
	seen := map[string]bool{}
	for _, e := range q.Entries {
		seen[e.ID] = true
	}
	if len(q.Entries) != 40 || len(seen) != 40 || !seen[q.CurrentID] {
		t.Errorf("%d entries with %d names", len(q.Entries), len(seen))
	}
}

func state(t *testing.T, w *world) {
	ctx, s, ada := t.Context(), w.replica(), w.user()
	ids := tracks(3)
	put, err := s.PutQueue(ctx, ada, 0, api.NewQueue{TrackIDs: ids})
	w.must(err)
	volume := 30
	st, err := s.Report(ctx, ada, "phone", api.StateReport{TrackID: ids[1], EntryID: put.Entries[1].ID, PlayID: ulid.Make().String(), PositionMS: 5000, Volume: &volume})
	w.must(err)
	if st.ActiveDeviceID != "phone" || st.Paused || st.Volume != 30 || st.EntryID != put.Entries[1].ID || time.Since(st.At) > 5*time.Second {
		t.Errorf("%+v", st)
	}
	_, err = s.Report(ctx, ada, "tv", api.StateReport{TrackID: ids[1]})
	w.is(err, player.ErrNotActive)
	q, err := s.Queue(ctx, ada, 0)
	w.must(err)
	if q.CurrentID != put.Entries[1].ID || q.PositionMS != 5000 || q.Revision <= put.Revision {
		t.Errorf("%+v", q)
	}
	_, err = s.Report(ctx, ada, "phone", api.StateReport{TrackID: ids[1], EntryID: put.Entries[1].ID, PositionMS: 9000})
	w.must(err)
	again, err := s.Queue(ctx, ada, 0)
	w.must(err)
	if again.Revision != q.Revision || again.PositionMS != 9000 {
		t.Errorf("a position is a new revision: %+v", again)
	}
	_, err = s.Report(ctx, ada, "phone", api.StateReport{TrackID: "\x00"})
	w.is(err, media.ErrInvalid)
	st, err = s.Report(ctx, ada, "phone", api.StateReport{TrackID: ids[2], EntryID: "taken out"})
	w.must(err)
	if st.EntryID != "" || st.Volume != 30 {
		t.Errorf("%+v", st)
	}
	playing, err := s.Playing(ctx, ada, w.user())
	w.must(err)
	if len(playing) != 1 || playing[0].UserID != ada || playing[0].TrackID != ids[2] {
		t.Errorf("%+v", playing)
	}
	_, err = s.Report(ctx, ada, "phone", api.StateReport{TrackID: ids[2], Paused: true})
	w.must(err)
	if playing, err = s.Playing(ctx, ada); err != nil || len(playing) != 0 {
		t.Errorf("%+v %v", playing, err)
	}

	// The active device is silent for long, and has no stream: another one takes its place by itself.
	_, err = w.db.ExecContext(ctx, `UPDATE players SET reported_at = $1 WHERE user_id = $2`, store.Micros(time.Now().Add(-2*time.Minute)), ada)
	w.must(err)
	phone := w.listen(s, ada, "phone", 0)
	_, err = s.Report(ctx, ada, "tv", api.StateReport{TrackID: ids[0]})
	w.is(err, player.ErrNotActive)
	phone.Close()
	st, err = s.Report(ctx, ada, "tv", api.StateReport{TrackID: ids[0]})
	w.must(err)
	if st.ActiveDeviceID != "tv" {
		t.Errorf("%+v", st)
	}
	_, err = s.Report(ctx, ulid.Make().String(), "tv", api.StateReport{})
	w.is(err, media.ErrNotFound)
}

// transfer moves playing between devices of two replicas.
func transfer(t *testing.T, w *world) {
	ctx, one, two, ada := t.Context(), w.replica(), w.replica(), w.user()
	ids := tracks(3)
	phone, tv, remote := w.listen(one, ada, "phone", 0), w.listen(two, ada, "tv", 0), w.listen(two, ada, "remote", 0)
	eve := w.listen(two, w.user(), "phone", 0) // of somebody else, with the same name
	_, err := one.Command(ctx, ada, "remote", api.CommandPause, api.NewCommand{})
	w.is(err, player.ErrNoActive)
	_, err = one.Report(ctx, ada, "phone", api.StateReport{TrackID: ids[0], PositionMS: 60_000})
	w.must(err)
	tv.until("the phone plays", func(e player.Event) bool {
		s, ok := e.Data.(api.PlayerState)
		return ok && s.ActiveDeviceID == "phone" && s.TrackID == ids[0]
	})

	begun := time.Now()
	_, err = two.Transfer(ctx, ada, "remote", api.Transfer{DeviceID: "tv"})
	w.must(err)
	start, stop := tv.command(api.CommandStart), phone.command(api.CommandStop)
	if took := time.Since(begun); took > time.Second {
		t.Errorf("a transfer takes %v", took)
	}
	if start.TrackID != ids[0] || start.PositionMS == nil || *start.PositionMS < 60_000 || *start.PositionMS > 65_000 || start.Paused == nil || *start.Paused || start.FromDeviceID != "remote" || stop.ID >= start.ID {
		t.Errorf("%+v %+v", start, stop)
	}
	_, err = one.Report(ctx, ada, "phone", api.StateReport{TrackID: ids[0]})
	w.is(err, player.ErrNotActive)
	_, err = two.Transfer(ctx, ada, "phone", api.Transfer{DeviceID: "remote"}) // cannot play
	w.is(err, media.ErrNotFound)
	_, err = two.Transfer(ctx, ada, "phone", api.Transfer{DeviceID: "car"})
	w.is(err, media.ErrNotFound)
	_, err = two.Transfer(ctx, ada, "phone", api.Transfer{})
	w.is(err, media.ErrNotFound)
	p, err := one.Player(ctx, ada)
	w.must(err)
	want := []api.PlayerDevice{{ID: "phone", Type: "phone", Name: "Téléphone", Plays: true}, {ID: "tv", Plays: true, Active: true}, {ID: "remote"}}
	if d := cmp.Diff(p.Devices, want); d != "" {
		t.Error(d)
	}

	// Commands reach the active device, or the one that is named.
	position, volume := int64(5), 7
	for kind, in := range map[string]api.NewCommand{api.CommandPause: {}, api.CommandPlay: {}, api.CommandNext: {}, api.CommandPrevious: {}, api.CommandSeek: {PositionMS: &position}, api.CommandVolume: {Volume: &volume}} {
		_, err := one.Command(ctx, ada, "phone", kind, in)
		w.must(err)
		got := tv.command(kind)
		if got.DeviceID != "tv" || got.FromDeviceID != "phone" || kind == api.CommandSeek && *got.PositionMS != 5 || kind == api.CommandVolume && *got.Volume != 7 {
			t.Errorf("%+v", got)
		}
	}
	_, err = one.Command(ctx, ada, "phone", api.CommandVolume, api.NewCommand{DeviceID: "phone", Volume: &volume})
	w.must(err)
	phone.command(api.CommandVolume)
	_, err = one.Command(ctx, ada, "phone", api.CommandVolume, api.NewCommand{})
	w.is(err, media.ErrInvalid)
	_, err = one.Command(ctx, ada, "phone", api.CommandSeek, api.NewCommand{})
	w.is(err, media.ErrInvalid)
	_, err = one.Command(ctx, ada, "phone", api.CommandNext, api.NewCommand{DeviceID: "car\x00"})
	w.is(err, media.ErrNotFound)
	_, err = one.Command(ctx, ada, "phone", "explode", api.NewCommand{})
	w.is(err, media.ErrNotFound)

	// To play elsewhere is a transfer; a queue that was put since says from where.
	put, err := one.PutQueue(ctx, ada, player.AnyRevision, api.NewQueue{TrackIDs: ids, Current: 2, PositionMS: 777})
	w.must(err)
	_, err = one.Command(ctx, ada, "remote", api.CommandPlay, api.NewCommand{DeviceID: "phone"})
	w.must(err)
	start = phone.command(api.CommandStart)
	if start.TrackID != ids[2] || start.EntryID != put.Entries[2].ID || *start.PositionMS != 777 || *start.Paused || start.QueueRevision != put.Revision {
		t.Errorf("%+v", start)
	}
	tv.command(api.CommandStop)
	for _, e := range append(eve.drain(), remote.drain()...) {
		if e.Kind == api.StreamCommand {
			t.Errorf("a command for others: %+v", e)
		}
	}
	// Back to the one that asks, paused, with no stream of its own.
	no := false
	tv.Close()
	st, err := two.Transfer(ctx, ada, "tv", api.Transfer{DeviceID: "tv", Play: &no})
	w.must(err)
	if st.ActiveDeviceID != "tv" || !st.Paused {
		t.Errorf("%+v", st)
	}
}

// race: of many transfers at once exactly one device remains active, and every other one that was started is stopped.
func race(t *testing.T, w *world) {
	ctx, ada := t.Context(), w.user()
	replicas := []*player.Service{w.replica(), w.replica()}
	var ears []*ear
	for i := range 4 {
		ears = append(ears, w.listen(replicas[i%2], ada, fmt.Sprint("d", i), 0))
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 5 {
				if _, err := replicas[i%2].Transfer(ctx, ada, "x", api.Transfer{DeviceID: fmt.Sprint("d", (i*3+n)%4)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	p, err := replicas[0].Player(ctx, ada)
	w.must(err)
	for i, e := range ears {
		device, playing, last := fmt.Sprint("d", i), false, int64(0)
		for _, v := range e.drain() {
			c, ok := v.Data.(api.Command)
			if !ok {
				continue
			}
			if c.ID <= last || c.DeviceID != device {
				t.Errorf("%s: %+v after %d", device, c, last)
			}
			if last = c.ID; c.Type == api.CommandStart {
				playing = true
			} else if c.Type == api.CommandStop {
				playing = false
			}
		}
		if playing != (p.State.ActiveDeviceID == device) {
			t.Errorf("%s plays: %v; active is %s", device, playing, p.State.ActiveDeviceID)
		}
	}
}

// resume: a stream that breaks goes on where it was.
func resume(t *testing.T, w *world) {
	ctx, s, ada := t.Context(), w.replica(), w.user()
	_, err := s.PutQueue(ctx, ada, player.AnyRevision, api.NewQueue{TrackIDs: tracks(1)})
	w.must(err)
	tv := w.listen(s, ada, "tv", 0)
	tv.until("the whole picture", func(e player.Event) bool { return e.Kind == api.StreamState })
	if got := kinds(tv.events); got != "devices queue state" {
		t.Errorf("first came %s", got)
	}
	last := tv.Event.ID
	tv.Close()
	_, err = s.Report(ctx, ada, "phone", api.StateReport{TrackID: tracks(1)[0]})
	w.must(err)
	w.listen(s, ada, "other", 0)
	_, err = s.Transfer(ctx, ada, "tv", api.Transfer{DeviceID: "tv"})
	w.must(err)
	tv = w.listen(s, ada, "tv", last)
	if got := kinds(tv.drain()); got != "devices state command" { // the queue did not change
		t.Errorf("after a break came %s", got)
	}
	last = tv.events[len(tv.events)-1].ID
	tv.Close()
	tv = w.listen(s, ada, "tv", last)
	if got := kinds(tv.drain()); got != "devices" { // its own coming and going
		t.Errorf("after another break came %s", got)
	}
	// A number that is not of this player, and none: the picture, with no old command.
	for _, after := range []int64{0, -5, 1 << 60} {
		if got := kinds(w.listen(s, ada, "tv", after).drain()); !strings.HasPrefix(got, "devices queue state") || strings.Contains(got, "command") {
			t.Errorf("after %d: %s", after, got)
		}
	}
	// What expired does not come.
	_, err = s.Command(ctx, ada, "other", api.CommandNext, api.NewCommand{DeviceID: "tv"})
	w.must(err)
	_, err = w.db.ExecContext(ctx, `UPDATE player_commands SET expires_at = 1`)
	w.must(err)
	if got := kinds(w.listen(s, ada, "tv", last).drain()); strings.Contains(got, "command") {
		t.Errorf("an old command came: %s", got)
	}
	for range player.MaxStreams {
		st, err := s.Open(ctx, player.Opening{UserID: ada, SessionID: "s", DeviceID: "d"})
		if err != nil {
			w.is(err, media.ErrBusy)
			return
		}
		t.Cleanup(st.Close)
	}
	t.Error("streams without a bound")
}

func kinds(events []player.Event) string {
	var out []string
	for _, e := range events {
		out = append(out, e.Kind)
	}
	return strings.Join(out, " ")
}

// downtime: with no notices, one replica goes on as before, and others hear within two seconds.
func downtime(t *testing.T, w *world) {
	ctx, one, two, ada := t.Context(), w.replica(), w.replica(), w.user()
	phone, tv := w.listen(one, ada, "phone", 0), w.listen(two, ada, "tv", 0)
	phone.drain()
	tv.drain()
	w.bus.down.Store(true)
	begun := time.Now()
	_, err := one.Transfer(ctx, ada, "phone", api.Transfer{DeviceID: "tv"})
	w.must(err)
	phone.until("word of it here", func(e player.Event) bool { return e.Kind == api.StreamState })
	here := time.Since(begun)
	tv.command(api.CommandStart)
	if there := time.Since(begun); here > 500*time.Millisecond || there > 3*time.Second {
		t.Errorf("%v here, %v there", here, there)
	}
	w.bus.down.Store(false)
	begun = time.Now()
	_, err = two.Transfer(ctx, ada, "tv", api.Transfer{DeviceID: "phone"})
	w.must(err)
	phone.command(api.CommandStart)
	if took := time.Since(begun); took > time.Second {
		t.Errorf("%v with notices", took)
	}
}

// dead: devices of a replica that stopped without a word are gone for the others; one that was only slow comes back.
func dead(t *testing.T, w *world) {
	ctx, one, two, ada := t.Context(), w.still(), w.still(), w.user()
	phone, tv := w.listen(one, ada, "phone", 0), w.listen(two, ada, "tv", 0)
	connected := func() string {
		p, err := two.Player(ctx, ada)
		w.must(err)
		var out []string
		for _, d := range p.Devices {
			out = append(out, d.ID)
		}
		return strings.Join(out, " ")
	}
	if got := connected(); got != "phone tv" {
		t.Errorf("%s are connected", got)
	}
	tv.drain()
	tv.events = nil
	_, err := w.db.ExecContext(ctx, `UPDATE player_hubs SET seen_at = 1 WHERE id = (SELECT hub_id FROM player_streams WHERE device_id = 'phone')`)
	w.must(err)
	if got := connected(); got != "tv" {
		t.Errorf("%s are connected", got)
	}
	w.must(two.Sweep(ctx))
	w.must(two.Sweep(ctx)) // hears of it
	if got := kinds(tv.drain()); got != "devices" {
		t.Errorf("%q came", got)
	}
	var rows int
	w.must(w.db.QueryRowContext(ctx, `SELECT count(*) FROM player_streams`).Scan(&rows))
	if rows != 1 {
		t.Errorf("%d rows of streams", rows)
	}
	w.must(one.Beat(ctx)) // it was only slow
	if got := connected(); got != "phone tv" {
		t.Errorf("%s are connected", got)
	}
	phone.Close()
	tv.Close()
	w.must(w.db.QueryRowContext(ctx, `SELECT count(*) FROM player_streams`).Scan(&rows))
	if rows != 0 || one.Streams() != 0 {
		t.Errorf("%d rows of streams, %d streams", rows, one.Streams())
	}
}

func sessions(t *testing.T, w *world) {
	s, ada := w.replica(), w.user()
	phone, tv := w.listen(s, ada, "phone", 0), w.listen(s, ada, "tv", 0)
	phone.drain()
	tv.drain()
	w.ended.Store("session of phone", true)
	if _, err := phone.Next(t.Context(), 10*time.Second); !errors.Is(err, player.ErrEnded) {
		t.Errorf("got %v", err)
	}
	phone.Close()
	tv.until("a device less", func(e player.Event) bool { d, ok := e.Data.([]api.PlayerDevice); return ok && len(d) == 1 })
	s.EndStreams()
	if _, err := tv.Next(t.Context(), 10*time.Second); !errors.Is(err, player.ErrEnded) {
		t.Errorf("got %v", err)
	}
	_, err := s.Open(t.Context(), player.Opening{UserID: ada, SessionID: "s", DeviceID: "d"})
	w.is(err, media.ErrBusy)
}

func personal(t *testing.T, w *world) {
	ctx, s, ada := t.Context(), w.replica(), w.user()
	id := tracks(1)[0]
	_, err := s.PutQueue(ctx, ada, player.AnyRevision, api.NewQueue{TrackIDs: []media.TrackID{id}})
	w.must(err)
	_, err = s.Report(ctx, ada, "phone", api.StateReport{TrackID: id})
	w.must(err)
	w.listen(s, ada, "phone", 0)
	v, err := s.Export(ctx, ada)
	w.must(err)
	if text := fmt.Sprintf("%+v", v); strings.Count(text, string(id)) != 2 {
		t.Error(text)
	}
	w.must(w.db.Tx(ctx, func(tx *sql.Tx) error { return s.DeviceRemoved(ctx, tx, ada, "phone") }))
	p, err := s.Player(ctx, ada)
	w.must(err)
	if p.State.ActiveDeviceID != "" || !p.State.Paused || len(p.Devices) != 0 {
		t.Errorf("%+v", p)
	}
	_, err = w.db.ExecContext(ctx, `DELETE FROM users WHERE id = $1`, ada)
	w.must(err)
	for _, table := range []string{"players", "queues", "player_commands", "player_streams"} {
		var n int
		w.must(w.db.QueryRowContext(ctx, `SELECT count(*) FROM `+table).Scan(&n))
		if n != 0 {
			t.Errorf("%d rows of %s remain", n, table)
		}
	}
	p, err = s.Player(ctx, ada)
	w.must(err)
	if p.State.Volume != 100 || !p.State.Paused {
		t.Errorf("%+v", p)
	}
}
