package evaluate_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"segue/controlplane/recommend/evaluate"
	"segue/controlplane/recommend/model"
	"segue/media"

	"github.com/google/go-cmp/cmp"
)

// TestBetter: on worlds of different kinds, and another seed than the one that anything was looked at with, ours finds more
// than popularity and more than item cosine, and earlier in the list. The worlds in full are in docs/performance.md.
func TestBetter(t *testing.T) {
	for _, name := range []string{"plain", "drift", "niche"} {
		t.Run(name, func(t *testing.T) {
			w := evaluate.Worlds[name]
			w.Users, w.Artists, w.Tastes, w.Seed = 600, w.Artists/5, w.Tastes/3, w.Seed+100
			r, err := evaluate.Run(t.Context(), evaluate.Generate(w), evaluate.Options{Seed: 1, Config: model.Config{Dim: 32, Trial: 150}})
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if err := r.Print(&b); err != nil {
				t.Fatal(err)
			}
			t.Logf("trained in %s, %+v\n%s", r.TrainedIn, r.Chosen, b.String())
			score := map[string]evaluate.Score{}
			for _, s := range r.Scores {
				score[s.Method] = s
			}
			for _, base := range []string{"popularity", "item cosine"} {
				if ours, theirs := score["ours"], score[base]; ours.Recall <= theirs.Recall || ours.NDCG <= theirs.NDCG {
					t.Errorf("ours %+v\n%s %+v", ours, base, theirs)
				}
			}
			if score["ours"].Coverage <= score["popularity"].Coverage {
				t.Errorf("ours covers %v of the tracks, popularity %v", score["ours"].Coverage, score["popularity"].Coverage)
			}
		})
	}
}

func TestRead(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0).UTC() }
	f := func(in string, want ...evaluate.Event) {
		t.Helper()
		got, err := evaluate.Read(strings.NewReader(in))
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%q: %v\n%s", in, err, d)
		}
	}
	f("a,x\nb,y\n", evaluate.Event{User: "a", Item: "x", Weight: 1}, evaluate.Event{User: "b", Item: "y", Weight: 1})
	f("a,x,3\n", evaluate.Event{User: "a", Item: "x", Weight: 3})
	f("a,x,1700000000\n", evaluate.Event{User: "a", Item: "x", Weight: 1, At: at(1700000000)})
	f("a,x,2,1700000000000\n", evaluate.Event{User: "a", Item: "x", Weight: 2, At: at(1700000000)})
	f("\ufefftime,track_id,user_id,other\n2026-01-02T03:04:05Z,\"x, y\",é,z\n", evaluate.Event{User: "é", Item: "x, y", Weight: 1, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)})
	f("user,item,weight\na,x,0\n")
	for _, bad := range []string{"a\n", "a,x,y\n", "a,x,-1\n", "a,x,NaN\n", ",x\n", "a,x,1,tomorrow\n", "\"a,x\n"} {
		if _, err := evaluate.Read(strings.NewReader(bad)); !errors.Is(err, media.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, s := range []string{"a,x\n", "user,item,weight,time\na,x,1,1700000000\n", "a,x,2,2026-01-02T03:04:05Z\n", "\"\n", "a,x,1e300\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		events, err := evaluate.Read(strings.NewReader(s))
		if err != nil && !errors.Is(err, media.ErrInvalid) {
			t.Errorf("%v", err)
		}
		for _, e := range events {
			if e.User == "" || e.Item == "" || !(e.Weight > 0) {
				t.Errorf("%+v", e)
			}
		}
	})
}

// TestRandomSplit: a log without times is split by lot, and one that nothing can be learnt from says so.
func TestRandomSplit(t *testing.T) {
	w := evaluate.Worlds["plain"]
	w.Users, w.Artists, w.Tastes = 150, 40, 3
	events := evaluate.Generate(w)
	for i := range events {
		events[i].At = time.Time{}
	}
	r, err := evaluate.Run(t.Context(), events, evaluate.Options{Config: model.Config{Dim: 16, Trial: -1, Sweeps: 4}})
	if err != nil || r.Split != "random" || r.Tried < 50 || len(r.Scores) != 4 || r.Scores[2].Recall <= 0 {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := evaluate.Run(t.Context(), events[:1], evaluate.Options{}); !errors.Is(err, media.ErrInvalid) {
		t.Errorf("%v", err)
	}
}
