package sim

import (
	"fmt"
	"math"

	"segue/geo"
	"segue/media"
)

// Country is a part of the listeners. Point is where they are taken to be: a country's middle.
type Country struct {
	Code   string  // ISO 3166-1 alpha-2
	Weight float64 // relative to the others
	UTC    float64 // hours that its clocks are ahead of UTC
}

// Region is where edges are.
type Region struct {
	Name  string
	At    geo.Point
	Edges int // 0: as many as its own traffic needs, with the reserve
}

// world has the listeners of a service that is everywhere. Within each of the four regions of Spotify's reports people are
// dealt out by their number and the part of them that is on the internet (UN, World Population Prospects 2024; ITU, Facts and
// Figures 2024; rounded); the regions have 28, 18, 22 and 32 % of the listeners (Spotify's shareholder decks of 2024 and 2025, within
// a point). A service of one country gives its own list.
var world = func() (out []Country) {
	type c struct {
		code          string
		millions, utc float64
		online        float64
	}
	parts := []struct {
		share float64
		list  []c
	}{
		{28, []c{{"DE", 84, 1, .93}, {"GB", 69, 0, .96}, {"FR", 66, 1, .9}, {"IT", 59, 1, .88}, {"ES", 48, 1, .95}, {"PL", 38, 1, .88}, {"TR", 87, 3, .87}, {"NL", 18, 1, .97}, {"SE", 11, 1, .96}, {"UA", 38, 2, .8}, {"RO", 19, 2, .89},
			{"PT", 10, 0, .87}, {"GR", 10, 2, .86}, {"CZ", 11, 1, .87}, {"BE", 12, 1, .95}, {"HU", 10, 1, .92}, {"AT", 9, 1, .95}, {"CH", 9, 1, .97}, {"DK", 6, 1, .99}, {"FI", 6, 2, .94}, {"NO", 6, 1, .99}, {"IE", 5, 0, .97}}},
		{18, []c{{"US", 345, -6, .95}, {"CA", 40, -5, .95}}},
		{22, []c{{"BR", 212, -3, .85}, {"MX", 131, -6, .83}, {"CO", 53, -5, .78}, {"AR", 46, -3, .9}, {"PE", 34, -5, .8}, {"CL", 20, -4, .95}, {"VE", 28, -4, .62}, {"EC", 18, -5, .77}, {"GT", 18, -6, .56}}},
		{32, []c{{"IN", 1451, 5.5, .56}, {"ID", 283, 7, .73}, {"PH", 116, 8, .84}, {"JP", 124, 9, .87}, {"KR", 52, 9, .97}, {"TH", 72, 7, .9}, {"VN", 101, 7, .8}, {"MY", 36, 8, .98}, {"TW", 23, 8, .95}, {"AU", 27, 10, .97}, {"NZ", 5, 12, .96},
			{"ZA", 64, 2, .76}, {"NG", 233, 1, .41}, {"EG", 117, 2, .82}, {"SA", 34, 3, 1}, {"AE", 11, 4, 1}, {"IL", 9, 2, .92}, {"PK", 251, 5, .33}, {"SG", 6, 8, .95}}},
	}
	for _, p := range parts {
		sum := 0.0
		for _, one := range p.list {
			sum += one.millions * one.online
		}
		for _, one := range p.list {
			out = append(out, Country{one.code, p.share * one.millions * one.online / sum, one.utc})
		}
	}
	return out
}()

// day is how listening spreads over the hours of a place's own clock: quiet at night, a rise with the way to work, highest from
// 16 to 20. The shape follows Zhang et al. (INFOCOM 2013, read off: an estimate); its peak is 1.6 times its mean.
var day = [24]float64{.55, .38, .28, .22, .22, .3, .5, .82, 1.05, 1.1, 1.12, 1.15, 1.2, 1.2, 1.22, 1.3, 1.45, 1.55, 1.6, 1.55, 1.45, 1.25, 1.05, .8}

// regions are a plan of places: large exchanges near the people.
var regions = []Region{
	{Name: "eu-west", At: geo.Point{Lat: 52.37, Lon: 4.9}}, {Name: "eu-central", At: geo.Point{Lat: 50.11, Lon: 8.68}}, {Name: "eu-south", At: geo.Point{Lat: 40.42, Lon: -3.7}}, {Name: "eu-east", At: geo.Point{Lat: 41.01, Lon: 28.98}},
	{Name: "us-east", At: geo.Point{Lat: 39.04, Lon: -77.49}}, {Name: "us-central", At: geo.Point{Lat: 32.78, Lon: -96.8}}, {Name: "us-west", At: geo.Point{Lat: 37.34, Lon: -121.89}},
	{Name: "br", At: geo.Point{Lat: -23.55, Lon: -46.63}}, {Name: "mx", At: geo.Point{Lat: 20.59, Lon: -100.39}}, {Name: "co", At: geo.Point{Lat: 4.71, Lon: -74.07}},
	{Name: "in", At: geo.Point{Lat: 19.08, Lon: 72.88}}, {Name: "sg", At: geo.Point{Lat: 1.35, Lon: 103.82}}, {Name: "jp", At: geo.Point{Lat: 35.68, Lon: 139.69}}, {Name: "au", At: geo.Point{Lat: -33.87, Lon: 151.21}},
	{Name: "za", At: geo.Point{Lat: -26.2, Lon: 28.05}}, {Name: "ae", At: geo.Point{Lat: 25.2, Lon: 55.27}},
}

// Popularity says how often a track of each rank is played.
type Popularity struct {
	Tracks float64 // in the catalogue
	// Zipf is the exponent of a power law. With knots it is not used.
	Zipf float64
	// Knots are ranks and plays, as log-log points with straight lines between; plays are relative.
	Knots []Knot
}

// Knot is a track's rank and its plays.
type Knot struct{ Rank, Plays float64 }

// Luminate is what Luminate's year-end report of 2025 says of all audio services together (5.1e12 streams of 253e6 tracks), read
// as a curve: the first has 2.86e9; 29 have over 1e9; 30.4e6 over 1000, 71.1e6 over 100, 133.7e6 over 10, 197.7e6 at least 1. Two knots in between, at
// 50e6 and 1e6 streams, are not in the report: they are set so that the sum is 5.1e12 and that tracks between these two have 49.4 %
// of it, as it says.
func Luminate() Popularity {
	return Popularity{Tracks: 197.7e6, Knots: []Knot{{1, 2.86e9}, {29, 1e9}, {20.2e3, 50e6}, {558e3, 1e6}, {30.4e6, 1000}, {71.1e6, 100}, {133.7e6, 10}, {197.7e6, 1}}}
}

// plays is the relative number of plays of a rank.
func (p *Popularity) plays(rank float64) float64 {
	if len(p.Knots) == 0 {
		return math.Pow(rank, -p.Zipf)
	}
	i := 1
	for i < len(p.Knots)-1 && p.Knots[i].Rank < rank {
		i++
	}
	a, b := p.Knots[i-1], p.Knots[i]
	slope := math.Log(b.Plays/a.Plays) / math.Log(b.Rank/a.Rank)
	return a.Plays * math.Pow(rank/a.Rank, slope)
}

// mass is the sum of plays over ranks from a up to, and without, b: whole numbers.
func (p *Popularity) mass(a, b float64) (sum float64) {
	const exact = 64
	for ; a < b && a < exact; a++ {
		sum += p.plays(a)
	}
	for a < b { // the rest by Simpson's rule in steps of a few percent, between half ranks
		to := min(b, math.Ceil(a*1.05))
		x, y := a-.5, to-.5
		sum += (y - x) / 6 * (p.plays(x) + 4*p.plays((x+y)/2) + p.plays(y))
		a = to
	}
	return sum
}

// Validate finds what cannot be meant.
func (p *Popularity) Validate() error {
	ok := p.Tracks >= 1 && p.Tracks <= 1e10 && (len(p.Knots) != 0 || p.Zipf >= 0 && p.Zipf < 4)
	last := Knot{0, math.Inf(1)}
	for _, k := range p.Knots {
		ok = ok && k.Rank > last.Rank && k.Plays > 0 && k.Plays < last.Plays && len(p.Knots) > 1 && p.Knots[0].Rank == 1
		last = k
	}
	if !ok {
		return fmt.Errorf("popularity: want tracks, and an exponent of 0 to 4 or knots from rank 1 on with rising ranks and falling plays: %w", media.ErrInvalid)
	}
	return nil
}
