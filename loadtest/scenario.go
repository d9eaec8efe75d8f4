package loadtest

import (
	"embed"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"segue/media"
)

// Scenario is how people listen: a small YAML file. What is left out is as in the steady scenario.
type Scenario struct {
	Name  string `yaml:"name"`
	About string `yaml:"about"`

	// Shape is how many listen over the time of the run: straight lines between points.
	Shape []Point `yaml:"shape"`
	// Session is the mean time that somebody listens; sessions are exponential, so that who listens now is as likely to go as
	// who has just come.
	Session time.Duration `yaml:"session"`
	// Zipf is the exponent of popularity: the track of rank r is played r^-Zipf times as often as the first.
	Zipf float64 `yaml:"zipf"`
	// Skip says up to which second of a track which part of its plays has been left; the rest hears it out.
	Skip []Left `yaml:"skip"`
	// Search, Seek, Pause: the part of sessions that begins with a search, of plays with a seek, with a pause.
	Search float64 `yaml:"search"`
	Seek   float64 `yaml:"seek"`
	Pause  float64 `yaml:"pause"`
	// PauseFor is the mean length of a pause.
	PauseFor time.Duration `yaml:"pause_for"`
	// Steered is the part of listeners whose player takes the steered manifest and follows Content Steering; the others have
	// the pathways that the playback names.
	Steered float64 `yaml:"steered"`
	// SignIn is the part of sessions that begin with a password and not with a token that is kept.
	SignIn float64 `yaml:"sign_in"`
	// Scrapers is the part of listeners that are none: they fetch whole files as fast as they come, each track as likely as another.
	Scrapers float64 `yaml:"scrapers"`
	// Buffer is how far ahead of the ear players fetch.
	Buffer time.Duration `yaml:"buffer"`
	// Renditions are those that players ask for; empty: all that the plan allows.
	Renditions []string `yaml:"renditions"`
	// Hot has a few tracks take a part of all plays for a time: an album that just came out.
	Hot []Hot `yaml:"hot"`
	// Do are things that happen to the platform: Config.On has what each name means.
	Do []Deed `yaml:"do"`
}

// Point: at a part of the run's time, this part of the listeners asked for.
type Point struct {
	At    float64 `yaml:"at"`
	Share float64 `yaml:"share"`
}

// Left: a part of plays is over by this second of the track.
type Left struct {
	By   float64 `yaml:"by"`
	Part float64 `yaml:"part"`
}

// Hot is a time, in parts of the run's, in which some tracks have a part of all plays.
type Hot struct {
	From   float64 `yaml:"from"`
	To     float64 `yaml:"to"`
	Tracks int     `yaml:"tracks"`
	Part   float64 `yaml:"part"`
}

// Deed names what is done at a part of the run's time.
type Deed struct {
	At float64 `yaml:"at"`
	Do string  `yaml:"do"`
}

//go:embed scenarios/*.yaml
var scenarios embed.FS

// Scenarios lists the names of those that come with the program.
func Scenarios() []string {
	entries, err := scenarios.ReadDir("scenarios")
	if err != nil {
		panic("bug: " + err.Error())
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return out
}

// LoadScenario reads one of Scenarios, or a file.
func LoadScenario(name string) (Scenario, error) {
	b, err := scenarios.ReadFile(path.Join("scenarios", name+".yaml"))
	if err != nil {
		if b, err = os.ReadFile(name); err != nil {
			return Scenario{}, fmt.Errorf("scenario %q is none of %s, and no file: %w", name, strings.Join(Scenarios(), ", "), err)
		}
	}
	return ParseScenario(b)
}

// steady has the defaults of what a file leaves out; its sources are in scenarios/steady.yaml.
func steady() Scenario {
	return Scenario{Shape: []Point{{0, 1}, {1, 1}}, Session: 30 * time.Minute, Zipf: 0.9,
		Skip:   []Left{{5, .2414}, {10, .2897}, {30, .3505}, {240, .486}},
		Search: .3, Seek: .05, Pause: .1, PauseFor: time.Minute, Steered: .5, SignIn: .01, Buffer: 30 * time.Second}
}

// ParseScenario reads a scenario; unknown members are errors.
func ParseScenario(b []byte) (Scenario, error) {
	s := steady()
	if err := yaml.UnmarshalWithOptions(b, &s, yaml.Strict()); err != nil {
		return s, fmt.Errorf("scenario: %w: %w", media.ErrInvalid, err)
	}
	return s, s.Validate()
}

// Validate finds what cannot be meant.
func (s *Scenario) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("scenario %s: %s: %w", s.Name, fmt.Sprintf(format, args...), media.ErrInvalid)
	}
	for name, v := range map[string]float64{"search": s.Search, "seek": s.Seek, "pause": s.Pause, "steered": s.Steered, "sign_in": s.SignIn, "scrapers": s.Scrapers} {
		if !(v >= 0 && v <= 1) {
			return bad("%s: want 0 to 1", name)
		}
	}
	if s.Name == "" {
		return bad("it has no name")
	}
	if s.Session < time.Second || s.PauseFor < 0 || s.Buffer < 5*time.Second || !(s.Zipf >= 0 && s.Zipf <= 4) {
		return bad("session of at least 1s, buffer of at least 5s, zipf of 0 to 4")
	}
	if len(s.Shape) == 0 || !slices.IsSortedFunc(s.Shape, func(a, b Point) int { return compare(a.At, b.At) }) {
		return bad("shape: want points in order of time")
	}
	for _, p := range s.Shape {
		if !(p.At >= 0 && p.At <= 1 && p.Share >= 0 && p.Share <= 1) {
			return bad("shape: want parts of 0 to 1")
		}
	}
	last := Left{}
	for _, l := range s.Skip {
		if !(l.By > last.By && l.Part >= last.Part && l.Part <= 1) {
			return bad("skip: want rising seconds and parts")
		}
		last = l
	}
	for _, h := range s.Hot {
		if !(h.From >= 0 && h.From < h.To && h.To <= 1 && h.Tracks > 0 && h.Part >= 0 && h.Part <= 1) {
			return bad("hot: want from < to, tracks, and a part of 0 to 1")
		}
	}
	for _, d := range s.Do {
		if !(d.At >= 0 && d.At <= 1) || d.Do == "" {
			return bad("do: want a part of the time and a name")
		}
	}
	return nil
}

func compare(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// share is the part of the listeners at a part of the time.
func (s *Scenario) share(at float64) float64 {
	i := sort.Search(len(s.Shape), func(i int) bool { return s.Shape[i].At >= at })
	switch {
	case i == 0:
		return s.Shape[0].Share
	case i == len(s.Shape):
		return s.Shape[i-1].Share
	}
	a, b := s.Shape[i-1], s.Shape[i]
	if b.At == a.At {
		return b.Share
	}
	return a.Share + (b.Share-a.Share)*(at-a.At)/(b.At-a.At)
}

// peak is the largest part.
func (s *Scenario) peak() (most float64) {
	for _, p := range s.Shape {
		most = max(most, p.Share)
	}
	return most
}

// leaves draws after how much of a track it is left; at least its length: it is heard out.
func (s *Scenario) leaves(rng *rand.Rand, length time.Duration) time.Duration {
	u, from := rng.Float64(), Left{}
	for _, l := range s.Skip {
		if u < l.Part {
			by := from.By + (l.By-from.By)*(u-from.Part)/(l.Part-from.Part)
			return min(time.Duration(by*float64(time.Second)), length)
		}
		from = l
	}
	return length
}

// ranks draws ranks of n tracks by Zipf's law.
type ranks struct{ cdf []float64 }

func newRanks(n int, exponent float64) ranks {
	r := ranks{make([]float64, n)}
	sum := 0.0
	for i := range r.cdf {
		sum += math.Pow(float64(i+1), -exponent)
		r.cdf[i] = sum
	}
	return r
}

func (r ranks) draw(rng *rand.Rand) int {
	n := len(r.cdf)
	return min(sort.SearchFloat64s(r.cdf, rng.Float64()*r.cdf[n-1]), n-1)
}
