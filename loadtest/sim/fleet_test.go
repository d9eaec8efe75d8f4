package sim

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"math"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"segue/edge"
	"segue/geo"
	"segue/media"
	"segue/origin/memstore"
)

// member is one real edge of the test's region.
type member struct {
	*edge.Edge
	url string
	reg *prometheus.Registry
}

// filled sums the bytes that came into an edge's memory, by tier.
func (m *member) filled(t *testing.T) map[string]float64 {
	families, err := m.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "segue_edge_filled_bytes_total" {
			for _, x := range f.GetMetric() {
				out[x.GetLabel()[0].GetValue()] += x.GetCounter().GetValue()
			}
		}
	}
	return out
}

// visit is one play of the test.
type visit struct {
	track, node int
	heard       int64
}

// TestPredictsARealFleet plays the same plays on real edges, over HTTP, and in the model: what comes from memory, from disk, from
// the other edge and from the origin has to agree within two points of the bytes.
func TestPredictsARealFleet(t *testing.T) {
	const (
		tracks, size, segment = 240, 5*edge.BlockSize - 1234, 80 << 10
		memory, disk          = 32 << 20, 64 << 20
		plays, warm           = 2400, 1000
	)
	store := &memstore.Store{}
	body := make([]byte, size)
	_, _ = rand.Read(body)
	key := func(i int) media.Key { return media.Key(fmt.Sprintf("art/track/%d.mp4", i)) }
	for i := range tracks {
		if _, err := store.Put(t.Context(), media.Object{Key: key(i), Size: size, ContentType: "audio/mp4"}, bytes.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"r-1", "r-2", "r-3"}
	var members []*member
	var peers []edge.Peer
	var keys []ed25519.PrivateKey
	ctx, stop := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	t.Cleanup(func() { stop(); serving.Wait() })
	for _, name := range names {
		reg := prometheus.NewRegistry()
		e, err := edge.New(edge.Config{Name: name, Memory: memory, DiskDir: t.TempDir(), DiskSize: disk, Routes: []*edge.Route{{Prefix: "/", Origin: edge.StoreOrigin{Store: store, Fresh: 1e12}}}}, slog.New(slog.DiscardHandler), reg)
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ready := make(chan struct{})
		serving.Go(func() { _ = e.Serve(ctx, ln, func() { close(ready) }) })
		<-ready
		public, private, _ := ed25519.GenerateKey(rand.Reader)
		m := &member{e, "http://" + ln.Addr().String(), reg}
		members, keys, peers = append(members, m), append(keys, private), append(peers, edge.Peer{Name: name, URL: m.url, Key: public})
	}
	var nodes []geo.Node
	for i, m := range members {
		m.SetPeers(names[i], keys[i], peers)
		nodes = append(nodes, geo.Node{Name: names[i], Region: "r", Healthy: true})
	}
	rng := mrand.New(mrand.NewPCG(5, 5))
	popularity := Popularity{Tracks: tracks, Zipf: .8}
	cdf := make([]float64, tracks)
	sum := 0.0
	for i := range cdf {
		sum += popularity.plays(float64(i + 1))
		cdf[i] = sum
	}
	var script []visit
	for range plays {
		track := min(sort.SearchFloat64s(cdf, rng.Float64()*sum), tracks-1)
		d := geo.Decide(geo.Client{Object: string(key(track))}, nodes, geo.Policy{})
		v := visit{track: track, node: slices.Index(names, d.Picks[0].Name), heard: size}
		if rng.Float64() < .4 { // left early
			v.heard = int64(rng.Float64() * size)
		}
		script = append(script, v)
	}

	// The model.
	cl := cluster{owners: edge.NewOwners(names)}
	for range names {
		cl.edges = append(cl.edges, edge.NewModel(memory, disk))
	}
	var want, bytesAll float64
	wantBy := map[string]float64{}
	for i, v := range script {
		id := edge.ObjectID(sha256Of(key(v.track)))
		n, f := cl.Play(v.node, id, size, v.heard, segment, false)
		if i >= warm {
			bytesAll += float64(n)
			wantBy["origin"] += float64(f.OriginBytes)
			wantBy["shield"] += float64(f.ShieldBytes)
			wantBy["disk"] += float64(f.DiskBytes)
		}
	}
	want = 1 - wantBy["origin"]/bytesAll

	// The real ones. Each play has an address of its own, as listeners do: read-ahead tells readers apart by it.
	var player atomic.Int64
	listen := func(v visit) error {
		from := player.Add(1)
		dial := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(from>>8), byte(from))}}
		client := &http.Client{Transport: &http.Transport{DialContext: dial.DialContext}}
		defer client.CloseIdleConnections()
		get := func(from, to int64) error {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, members[v.node].url+"/"+string(key(v.track)), nil)
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			n, err := io.Copy(io.Discard, resp.Body)
			if err == nil && (resp.StatusCode != http.StatusPartialContent || n != to-from) {
				err = fmt.Errorf("%s, %d of %d bytes", resp.Status, n, to-from)
			}
			return err
		}
		err := get(0, head)
		for at := int64(head); err == nil && at < min(size, max(v.heard, segment)); at += segment {
			err = get(at, min(at+segment, size))
		}
		return err
	}
	all := func() map[string]float64 {
		out := map[string]float64{}
		for _, m := range members {
			for tier, n := range m.filled(t) {
				out[tier] += n
			}
		}
		return out
	}
	play := func(list []visit) {
		jobs := make(chan visit)
		var listeners sync.WaitGroup
		for range 4 {
			listeners.Go(func() {
				for v := range jobs {
					if err := listen(v); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for _, v := range list {
			jobs <- v
		}
		close(jobs)
		listeners.Wait()
	}
	play(script[:warm])
	before := all()
	play(script[warm:])
	got := all()
	for tier := range got {
		got[tier] -= before[tier]
	}
	var report strings.Builder
	for _, tier := range []string{"origin", "shield", "disk"} {
		fmt.Fprintf(&report, " %s %.2f %% (model %.2f %%)", tier, 100*got[tier]/bytesAll, 100*wantBy[tier]/bytesAll)
	}
	measured := 1 - got["origin"]/bytesAll
	t.Logf("not from the origin: %.2f %% (model %.2f %%); of the bytes came from%s", 100*measured, 100*want, &report)
	if math.Abs(measured-want) > .02 {
		t.Errorf("hit ratio %.2f %%, the model says %.2f %%: more than two points apart", 100*measured, 100*want)
	}
	if want < .3 || want > .97 {
		t.Errorf("a hit ratio of %.2f proves little", want)
	}
}

func sha256Of(k media.Key) []byte {
	sum := sha256.Sum256([]byte(k))
	return sum[:16]
}
