package evaluate

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// World is how made-up listeners behave. It is not the model that recommendations are made with: artists have tracks and
// release more, people have a few tastes that change, favourite artists, moods, and the habit of hearing things again.
type World struct {
	Users, Artists int
	Tastes         int     // clusters of artists
	Zipf           float64 // of artists, and of an artist's tracks
	Days           int
	PlaysPerUser   float64 // median; the busy ones have many times that
	Again          float64 // share of plays that are of tracks heard before
	Drift          float64 // tastes that a listener changes in the time, on average
	Fresh          float64 // share of tracks that come out within the time
	Chance         float64 // share of new plays that nothing explains but what is popular
	Seed           uint64
}

// Worlds are settings that differ in what makes them hard.
var Worlds = map[string]World{
	"plain":  {Users: 4000, Artists: 600, Tastes: 16, Zipf: 0.9, Days: 180, PlaysPerUser: 120, Again: 0.5, Drift: 0.5, Fresh: 0.15, Chance: 0.1, Seed: 1},
	"drift":  {Users: 4000, Artists: 600, Tastes: 24, Zipf: 0.8, Days: 240, PlaysPerUser: 120, Again: 0.4, Drift: 3, Fresh: 0.4, Chance: 0.1, Seed: 2},
	"niche":  {Users: 4000, Artists: 1500, Tastes: 80, Zipf: 0.7, Days: 180, PlaysPerUser: 150, Again: 0.5, Drift: 0.5, Fresh: 0.1, Chance: 0.05, Seed: 3},
	"hits":   {Users: 4000, Artists: 400, Tastes: 8, Zipf: 1.2, Days: 180, PlaysPerUser: 100, Again: 0.6, Drift: 0.5, Fresh: 0.2, Chance: 0.4, Seed: 4},
	"sparse": {Users: 6000, Artists: 800, Tastes: 30, Zipf: 0.9, Days: 90, PlaysPerUser: 30, Again: 0.4, Drift: 0.3, Fresh: 0.1, Chance: 0.1, Seed: 5},
}

// ArtistOf is the artist of a made-up track.
func ArtistOf(item string) string { return item[:min(len(item), 6)] }

// Generate makes plays in order of time, the same ones for the same world. Users are u00001 …, tracks a00001t003.
func Generate(w World) []Event {
	rng := rand.New(rand.NewPCG(w.Seed, 4))
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	days := float64(w.Days)

	type track struct {
		id     string
		weight float64
		from   float64 // day
	}
	type artist struct {
		taste, second int
		weight        float64
		tracks        []track
	}
	artists := make([]artist, w.Artists)
	byTaste := make([][]int, w.Tastes)
	ranks := rng.Perm(w.Artists)
	for i := range artists {
		a := artist{taste: rng.IntN(w.Tastes), second: rng.IntN(w.Tastes), weight: math.Pow(float64(ranks[i]+1), -w.Zipf)}
		for n := range 4 + rng.IntN(12) {
			t := track{id: fmt.Sprintf("a%05dt%03d", i, n), weight: math.Pow(float64(n+1), -w.Zipf), from: -1000}
			if rng.Float64() < w.Fresh {
				t.from = rng.Float64() * days
				t.weight *= 3 // a new one is heard more than its place would say, for a while
			}
			a.tracks = append(a.tracks, t)
		}
		artists[i] = a
		byTaste[a.taste] = append(byTaste[a.taste], i)
		if a.second != a.taste && rng.IntN(3) == 0 {
			byTaste[a.second] = append(byTaste[a.second], i)
		}
	}
	everybody := make([]int, w.Artists)
	for i := range everybody {
		everybody[i] = i
	}
	sums := func(list []int) []float64 {
		out := make([]float64, len(list))
		s := 0.0
		for i, a := range list {
			s += artists[a].weight
			out[i] = s
		}
		return out
	}
	pick := func(list []int, sum []float64) int {
		i, _ := slices.BinarySearch(sum, rng.Float64()*sum[len(sum)-1])
		return list[min(i, len(list)-1)]
	}
	allSum := sums(everybody)
	tasteSum := make([][]float64, w.Tastes)
	for i := range tasteSum {
		if len(byTaste[i]) == 0 {
			byTaste[i] = []int{rng.IntN(w.Artists)}
		}
		tasteSum[i] = sums(byTaste[i])
	}
	choose := func(a int, day float64) string {
		total := 0.0
		ts := artists[a].tracks
		weigh := func(t track) float64 {
			switch {
			case t.from > day:
				return 0
			case t.from < 0:
				return t.weight
			}
			return t.weight * (0.3 + math.Exp2(-(day-t.from)/20))
		}
		for _, t := range ts {
			total += weigh(t)
		}
		x := rng.Float64() * total
		for _, t := range ts {
			if x -= weigh(t); x <= 0 && t.from <= day {
				return t.id
			}
		}
		return ts[0].id
	}

	var out []Event
	for u := range w.Users {
		user := fmt.Sprintf("u%05d", u+1)
		plays := int(w.PlaysPerUser * math.Exp(rng.NormFloat64()*0.9))
		tastes := make([]int, 1+rng.IntN(4))
		var favourites []int
		fill := func(i int) {
			tastes[i] = rng.IntN(w.Tastes)
			for range 4 {
				favourites = append(favourites, pick(byTaste[tastes[i]], tasteSum[tastes[i]]))
			}
		}
		for i := range tastes {
			fill(i)
		}
		from := rng.Float64() * days * 0.6 // people join
		when := make([]float64, plays)
		for i := range when {
			when[i] = from + rng.Float64()*(days-from)
		}
		slices.Sort(when)
		var history []string
		for _, day := range when {
			if rng.Float64() < w.Drift*float64(1)/float64(max(plays, 1)) {
				fill(rng.IntN(len(tastes)))
				favourites = favourites[max(0, len(favourites)-16):] // the oldest are forgotten
			}
			var item string
			switch x := rng.Float64(); {
			case len(history) > 3 && x < w.Again:
				// The latest are heard again most.
				back := int(rng.ExpFloat64() * float64(len(history)) / 4)
				item = history[max(0, len(history)-1-back)]
			case rng.Float64() < w.Chance:
				item = choose(pick(everybody, allSum), day)
			case rng.Float64() < 0.5:
				item = choose(favourites[rng.IntN(len(favourites))], day)
			default:
				taste := tastes[min(int(rng.ExpFloat64()*0.8), len(tastes)-1)] // the first taste is the strongest
				item = choose(pick(byTaste[taste], tasteSum[taste]), day)
			}
			history = append(history, item)
			out = append(out, Event{user, item, 1, begin.Add(time.Duration(day * 24 * float64(time.Hour)))})
		}
	}
	slices.SortStableFunc(out, func(a, b Event) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.User, b.User)) })
	return out
}
