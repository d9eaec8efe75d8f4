package controlplane_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"segue/controlplane"
	"segue/controlplane/api"
	"segue/controlplane/plays"
	"segue/internal/testenv"
	"segue/media"

	natsd "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"
)

// natsServer is an event log elsewhere: it can be stopped, and started again on its port and folder.
type natsServer struct {
	t    *testing.T
	opts natsd.Options
	*natsd.Server
}

func (n *natsServer) start() {
	n.t.Helper()
	opts := n.opts
	s, err := natsd.NewServer(&opts)
	if err != nil {
		n.t.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		n.t.Fatal("NATS does not start")
	}
	n.Server = s
}

func (n *natsServer) stop() {
	n.Shutdown()
	n.WaitForShutdown()
}

func startNATS(t *testing.T) (*natsServer, string) {
	t.Helper()
	addr := testenv.Addr(t)
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	n := &natsServer{t: t, opts: natsd.Options{Host: host, Port: number, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true}}
	n.start()
	t.Cleanup(func() { n.stop() })
	return n, (&url.URL{Scheme: "nats", Host: addr}).String()
}

// logged counts the play events in the log, by id.
func logged(t *testing.T, url string) map[string]int {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "PLAYS")
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for seq := info.State.FirstSeq; seq > 0 && seq <= info.State.LastSeq; seq++ {
		m, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		events, err := plays.Decode(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			out[e.ID]++
		}
	}
	return out
}

// TestEventsOverAnOutage: players send on while the event log is stopped and started. What was acknowledged is in the log
// once; meanwhile everything else works.
func TestEventsOverAnOutage(t *testing.T) {
	n, natsURL := startNATS(t)
	s := newServerWith(t, "sqlite:"+t.TempDir()+"/segue.db", "clickhouse://nobody:x@"+testenv.Addr(t)+"/none", func(c *controlplane.Config) { c.NATS = natsURL })
	user, _ := s.signIn("ada@example.org")
	track := s.publish(media.Tags{Title: "Outage", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
	eventually(t, "the track is found", func() bool {
		return len(call[api.SearchResult](t, user, "GET", "/v1/search?q=outage", nil).Tracks) == 1
	})
	s.join("eu-1", "eu", "http://eu.example", 52, 5)
	play := call[api.Playback](t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID})

	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(acknowledged) }
	var players sync.WaitGroup
	for range 4 {
		players.Go(func() {
			for ctx.Err() == nil {
				events := make([]api.Event, 5)
				for i := range events {
					events[i] = api.Event{ID: ulid.Make().String(), PlayID: play.PlayID, Type: api.EventProgress, At: time.Now().UTC()}
				}
				for range 3 { // a player repeats what was not acknowledged, and sometimes what was
					if r, err := user.Events(ctx, events, api.EventsOptions{}); err == nil && r.Accepted == len(events) {
						mu.Lock()
						for _, e := range events {
							acknowledged[e.ID] = true
						}
						mu.Unlock()
						if ulid.Now()%4 != 0 {
							break
						}
					}
				}
			}
		})
	}
	for range 3 {
		at := count()
		eventually(t, "events are taken with the log there", func() bool { return count() > at+50 })
		n.stop()
		at = count()
		eventually(t, "events are taken with the log away", func() bool { return count() > at+50 })
		if got := call[api.SearchResult](t, user, "GET", "/v1/search?q=outage", nil); len(got.Tracks) != 1 {
			t.Error("no search without the event log")
		}
		if got := call[api.Track](t, user, "GET", "/v1/tracks/"+string(track.ID), nil); got.ID != track.ID {
			t.Error("no catalogue without the event log")
		}
		n.start()
	}
	cancel()
	players.Wait()
	eventually(t, "all acknowledged events are in the log", func() bool {
		in := logged(t, natsURL)
		for id := range acknowledged {
			if in[id] == 0 {
				return false
			}
		}
		return true
	})
	for id, times := range logged(t, natsURL) {
		if times != 1 {
			t.Errorf("event %s is in the log %d times", id, times)
		}
	}
	t.Logf("%d events acknowledged over three outages", len(acknowledged))
}

// TestOutboxIsBounded: when SQL keeps as many events as it may, no more are acknowledged, and none of those is lost.
func TestOutboxIsBounded(t *testing.T) {
	n, natsURL := startNATS(t)
	s := newServerWith(t, testenv.Postgres(t), "", func(c *controlplane.Config) { c.NATS, c.MaxOutbox = natsURL, 20 })
	user, _ := s.signIn("ada@example.org")
	track := s.publish(media.Tags{Title: "A", Artist: "B", AlbumArtist: "B", Album: "C"}, 100, "a")
	s.join("eu-1", "eu", "http://eu.example", 52, 5)
	play := call[api.Playback](t, user, "POST", "/v1/playback", api.NewPlayback{TrackID: track.ID})
	n.stop()
	var kept []string
	eventually(t, "the outbox is full", func() bool {
		e := api.Event{ID: ulid.Make().String(), PlayID: play.PlayID, Type: api.EventStart, At: time.Now().UTC()}
		_, err := user.Events(t.Context(), []api.Event{e}, api.EventsOptions{})
		if err == nil {
			kept = append(kept, e.ID)
			return false
		}
		p, ok := errors.AsType[*api.Problem](err)
		return ok && p.Status == 503 && p.RetryAfter > 0
	})
	if len(kept) < 10 || len(kept) > 20 {
		t.Errorf("%d events were kept in an outbox of 20", len(kept))
	}
	n.start()
	eventually(t, "what was kept is in the log", func() bool {
		in := logged(t, natsURL)
		for _, id := range kept {
			if in[id] != 1 {
				return false
			}
		}
		return true
	})
}
