package sim

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"

	"segue/media"
)

// ParseConfig reads a Config as JSON; unknown members are errors.
func ParseConfig(b []byte) (c Config, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, fmt.Errorf("capacity model: %w: %w", media.ErrInvalid, err)
	}
	return c, nil
}

// FitLog reads a play log as CSV: with a header, and in it a column track or track_id; a column count or plays makes each line that many
// plays, else each is one. The curve goes through the log's own ranks; tracks that were not played in it do not exist.
//
//	segue admin sql "SELECT track_id, count() AS plays FROM plays GROUP BY track_id FORMAT CSVWithNames" > log.csv
func FitLog(r io.Reader) (Popularity, error) {
	in := csv.NewReader(r)
	in.ReuseRecord = true
	bad := func(err error) (Popularity, error) {
		return Popularity{}, fmt.Errorf("play log: %w: %w", media.ErrInvalid, err)
	}
	head, err := in.Read()
	if err != nil {
		return bad(err)
	}
	track, count := -1, -1
	for i, name := range head {
		switch name {
		case "track", "track_id":
			track = i
		case "count", "plays":
			count = i
		}
	}
	if track < 0 {
		return bad(errors.New("no column track or track_id"))
	}
	plays := map[string]float64{}
	for {
		row, err := in.Read()
		if err == io.EOF {
			break
		} else if err != nil {
			return bad(err)
		}
		n := 1.0
		if count >= 0 {
			if n, err = strconv.ParseFloat(row[count], 64); err != nil || !(n >= 0) {
				line, _ := in.FieldPos(count)
				return bad(fmt.Errorf("line %d: count %q", line, row[count]))
			}
		}
		plays[row[track]] += n
	}
	var of []float64
	for _, n := range plays {
		if n > 0 {
			of = append(of, n)
		}
	}
	slices.SortFunc(of, func(a, b float64) int { return cmp.Compare(b, a) })
	if len(of) < 2 {
		return bad(errors.New("plays of fewer than two tracks"))
	}
	// Knots at ranks a quarter apart, each with the mean of the ranks around it: single ranks of the tail are steps.
	p := Popularity{Tracks: float64(len(of))}
	for rank := 1; rank <= len(of); rank = max(rank+1, int(math.Ceil(float64(rank)*1.25))) {
		from, to := rank-rank/10, min(len(of), rank+rank/10)
		sum := 0.0
		for _, n := range of[from-1 : to] {
			sum += n
		}
		mean := sum / float64(to-from+1)
		if k := len(p.Knots); k > 0 && mean >= p.Knots[k-1].Plays {
			mean = p.Knots[k-1].Plays * .9999 // equal ones, but a curve falls
		}
		p.Knots = append(p.Knots, Knot{float64(rank), mean})
	}
	if last := float64(len(of)); p.Knots[len(p.Knots)-1].Rank < last {
		p.Knots = append(p.Knots, Knot{last, min(of[len(of)-1], p.Knots[len(p.Knots)-1].Plays*.9999)})
	}
	return p, p.Validate()
}
