package model

import (
	"slices"
	"strings"
	"time"
)

// Model is what was learnt. It is not changed after it was made, and is safe for concurrent use.
type Model struct {
	Info
	ids    []string
	order  []uint32  // item numbers by id, for Find
	recent []float32 // plays, of which a month old counts half
	heavy  []float32 // recent as a share of the most heard one's, of logarithms
	vecs   factors
	gram   []float32 // of vecs
	near   []uint32  // Near neighbours of each track, best first
	sims   []float32
	groups []uint32            // of each track, such as its artist; 0: not known
	charts map[string][]uint32 // most heard first
}

// Info says what a model is.
type Info struct {
	Made    time.Time `json:"made"`  // what time was now in training
	Until   time.Time `json:"until"` // plays that began before it are in
	Full    time.Time `json:"full"`  // when all of it was last learnt anew
	Tracks  int       `json:"tracks"`
	Users   int       `json:"users"` // whose plays were learnt from
	Pairs   int       `json:"pairs"`
	Sampled float64   `json:"sampled"` // share of the listeners that were
	Dim     int       `json:"dim"`
	Near    int       `json:"near"`
	Chosen  Chosen    `json:"chosen"`
	// What was held back in training and found again among the first 20, by this model and by the charts alone. Both 0: there
	// was too little to hold back.
	Recall        float64 `json:"recall"`
	PopularRecall float64 `json:"popular_recall"`
}

// Chosen is what training chose by trying.
type Chosen struct {
	All      float32       `json:"all"` // see als
	Ridge    float32       `json:"ridge"`
	HalfLife time.Duration `json:"half_life"` // of what a listener heard; 0: all of it counts the same
	Factors  float32       `json:"factors"`   // weights of the blend
	Similar  float32       `json:"similar"`
	Popular  float32       `json:"popular"`
}

// chartLength is how many tracks of a chart are kept.
const chartLength = 500

// finish makes what follows from the rest.
func (m *Model) finish() {
	m.order = make([]uint32, len(m.ids))
	for i := range m.order {
		m.order[i] = uint32(i)
	}
	slices.SortFunc(m.order, func(a, b uint32) int { return strings.Compare(m.ids[a], m.ids[b]) })
	m.heavy = make([]float32, len(m.recent))
	most := float32(1e-9)
	for i, r := range m.recent {
		m.heavy[i] = log1p(r)
		most = max(most, m.heavy[i])
	}
	for i := range m.heavy {
		m.heavy[i] /= most
	}
	m.gram = als{dim: m.Dim, all: m.Chosen.All}.gram(m.vecs)
}

// Find returns a track's number, or -1.
func (m *Model) Find(id string) int {
	i, ok := slices.BinarySearchFunc(m.order, id, func(n uint32, id string) int { return strings.Compare(m.ids[n], id) })
	if !ok {
		return -1
	}
	return int(m.order[i])
}

// ID is the inverse of Find.
func (m *Model) ID(item int) string { return m.ids[item] }

// Group is whose a track is, as Config.Group said; 0: not known.
func (m *Model) Group(item int) uint32 { return m.groups[item] }

// Recent is how much a track is heard lately: plays, of which one a month old counts half.
func (m *Model) Recent(item int) float64 { return float64(m.recent[item]) }

// Chart returns the most heard tracks of a country ("DE"), a plan ("plan:free") or of all (""), most heard first; nil
// when none is known. The caller must not change it.
func (m *Model) Chart(name string) []uint32 { return m.charts[name] }

// Bytes is about how much memory it takes.
func (m *Model) Bytes() int64 {
	n := int64(len(m.ids))
	b := n * (16 + 4 + 4 + 4 + 4) // headers of ids, order, recent, heavy, groups
	for _, id := range m.ids {
		b += int64(len(id))
	}
	return b + int64(len(m.vecs)+len(m.gram)+len(m.near)+len(m.sims))*4
}
