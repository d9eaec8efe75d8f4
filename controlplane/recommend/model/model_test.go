package model_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"segue/controlplane/recommend/model"
	"segue/media"

	"github.com/google/go-cmp/cmp"
)

var now = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// fill adds plays of two camps, who share nothing, from a day on.
func fill(l *model.Log, users, from int) {
	rng := rand.New(rand.NewPCG(7, uint64(from)))
	for u := range users {
		for range 20 {
			n := int(rng.ExpFloat64()*12) % 50
			l.Add(model.Play{User: fmt.Sprintf("u%d", u), Track: fmt.Sprintf("camp%d-%02d", u%2, n), Country: []string{"DE", "US"}[u%2], Plan: "free", Heard: 1,
				Last: now.AddDate(0, 0, -from-rng.IntN(60))})
		}
	}
}

func train(t testing.TB, l *model.Log, before *model.Model) *model.Model {
	t.Helper()
	m, err := model.Train(t.Context(), l, before, model.Config{Dim: 16, Near: 20, Sweeps: 5})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func rank(m *model.Model, n int, heard ...string) (out []string) {
	a := model.Ask{N: n, Leave: func(i int) bool { return false }}
	for _, id := range heard {
		a.Heard = append(a.Heard, model.Heard{Item: m.Find(id), Weight: 1})
	}
	for _, s := range m.Rank(a) {
		out = append(out, m.ID(s.Item))
	}
	return out
}

// TestCamps: what is found is of the camp; charts are of the country; a model is the same after a file.
func TestCamps(t *testing.T) {
	l := model.NewLog(now, model.Limits{})
	fill(l, 200, 1)
	m := train(t, l, nil)
	for camp := range 2 {
		list := rank(m, 10, fmt.Sprintf("camp%d-00", camp), fmt.Sprintf("camp%d-03", camp))
		wrong := 0
		for _, id := range list {
			if id[4] != byte('0'+camp) {
				wrong++
			}
		}
		if len(list) != 10 || wrong > 0 {
			t.Errorf("camp %d gets %v", camp, list)
		}
	}
	for i, country := range []string{"DE", "US"} {
		for _, n := range m.Chart(country) {
			if id := m.ID(int(n)); id[4] != byte('0'+i) {
				t.Errorf("%s is in the chart of %s", id, country)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "sub", "model")
	if err := m.Save(path); err != nil {
		t.Fatal(err)
	}
	again, err := model.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(rank(m, 20, "camp1-05"), rank(again, 20, "camp1-05")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(m.Info, again.Info); d != "" {
		t.Error(d)
	}
	// The same plays make the same model.
	other := model.NewLog(now, model.Limits{})
	fill(other, 200, 1)
	if d := cmp.Diff(rank(m, 20, "camp1-05"), rank(train(t, other, nil), 20, "camp1-05")); d != "" {
		t.Error(d)
	}
	// No byte can be changed unseen, and none makes it panic.
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		bad := append([]byte(nil), good...)
		bad[rng.IntN(len(bad))] ^= byte(1 + rng.IntN(255))
		if rng.IntN(4) == 0 {
			bad = bad[:rng.IntN(len(bad))]
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := model.Load(path); !errors.Is(err, media.ErrCorrupt) {
			t.Fatalf("a changed file is read: %v", err)
		}
	}
}

// TestGoesOn: plays since the last training are in the next one, which begins where that ended; a new track is found.
func TestGoesOn(t *testing.T) {
	l := model.NewLog(now, model.Limits{})
	fill(l, 200, 1)
	first := train(t, l, nil)
	path := filepath.Join(t.TempDir(), "plays")
	if err := l.Save(path); err != nil {
		t.Fatal(err)
	}
	later := now.Add(time.Hour)
	l, err := model.LoadLog(path, later, model.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for u := range 40 {
		l.Add(model.Play{User: fmt.Sprintf("u%d", 2*u), Track: "camp0-new", Heard: 3, Last: later})
	}
	second := train(t, l, first)
	if second.Tracks != first.Tracks+1 || !second.Full.Equal(first.Full) || second.Pairs != first.Pairs+40 {
		t.Errorf("%+v\n%+v", first.Info, second.Info)
	}
	found := false
	for _, s := range second.Similar(second.Find("camp0-new"), 10) {
		found = true
		if id := second.ID(s.Item); id[4] != '0' {
			t.Errorf("%s is like a track of the other camp", id)
		}
	}
	if !found {
		t.Error("the new track has no neighbours")
	}
	l.Forget(map[string]bool{"u0": true, "u2": true})
	if third := train(t, l, nil); third.Pairs >= second.Pairs {
		t.Errorf("%d pairs after two listeners left, %d before", third.Pairs, second.Pairs)
	}
}

// TestBounds: with more than may be, listeners are left out by lot, the same ones in any order; a listener's oldest tracks go.
func TestBounds(t *testing.T) {
	limits := model.Limits{Pairs: 2000, PerUser: 10}
	l := model.NewLog(now, limits)
	fill(l, 2000, 1)
	m := train(t, l, nil)
	if m.Pairs > 2000 || m.Sampled >= 1 || m.Users > 1000 || m.Users < 20 {
		t.Errorf("%+v", m.Info)
	}
	l = model.NewLog(now, model.Limits{Tracks: 10})
	fill(l, 50, 1)
	if m := train(t, l, nil); m.Tracks != 10 {
		t.Errorf("%d tracks", m.Tracks)
	}
	l = model.NewLog(now, model.Limits{})
	l.Add(model.Play{User: "a", Track: "x", Heard: 1})
	if _, err := model.Train(t.Context(), l, nil, model.Config{}); !errors.Is(err, model.ErrTooLittle) {
		t.Errorf("%v", err)
	}
}

// TestDiverse: no group has more than its share, nor two places in a row where that can be.
func TestDiverse(t *testing.T) {
	l := model.NewLog(now, model.Limits{})
	fill(l, 100, 1)
	m := train(t, l, nil)
	var list []model.Scored
	for i := range 40 {
		list = append(list, model.Scored{Item: i, Score: 1 - float32(i)/100})
	}
	group := func(item int) string { return []string{"one", "one", "one", "two", "three"}[item%5] }
	got := m.Diverse(list, model.Rules{N: 12, PerGroup: 4, Spread: 0.3, Apart: true}, group)
	count, last := map[string]int{}, ""
	for _, s := range got {
		if count[group(s.Item)]++; count[group(s.Item)] > 4 || group(s.Item) == last {
			t.Errorf("%s has too many, or follows itself", group(s.Item))
		}
		last = group(s.Item)
	}
	if len(got) != 12 || got[0].Item != 0 {
		t.Errorf("%v", got)
	}
	if got, want := m.Diverse(list, model.Rules{N: 5}, group), list[:5]; !cmp.Equal(got, want) {
		t.Errorf("with no rules the best are taken: %v", got)
	}
}
