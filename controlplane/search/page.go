package search

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"segue/media"
)

// artistsFirst breaks what is nearly a tie between kinds when one hit is shown above all.
var artistsFirst = map[string]float64{"artist": 0.3, "track": 0.1, "album": 0.05}

// page cuts one page out of what was found, in the order of score and id.
func page(list []found, kind string, q question, cursor string, limit int) (List, error) {
	after, afterID, err := parseCursor(cursor)
	if err != nil {
		return List{}, err
	}
	// Ids are read only for as many as may be shown: documents of one score are told apart by them.
	slices.SortFunc(list, func(a, b found) int { return cmp.Compare(b.score, a.score) })
	out := List{Hits: []Hit{}}
	for i := 0; i < len(list); {
		j := i + 1
		for j < len(list) && list[j].score == list[i].score {
			j++
		}
		if cursor != "" && list[i].score > after {
			i = j
			continue
		}
		ids := make([]string, j-i)
		same := list[i:j]
		order := make([]int, j-i)
		for k := range same {
			ids[k], order[k] = string(same[k].in.id(same[k].doc)), k
		}
		slices.SortFunc(order, func(a, b int) int { return cmp.Compare(ids[a], ids[b]) })
		for _, k := range order {
			if cursor != "" && same[k].score == after && ids[k] <= afterID {
				continue
			}
			if len(out.Hits) == limit {
				last := out.Hits[limit-1]
				out.Next = makeCursor(last.Score, last.ID)
				return out, nil
			}
			hit := Hit{Kind: kind, ID: ids[k], Score: same[k].score}
			if err := hit.read(same[k], q); err != nil {
				return out, err
			}
			out.Hits = append(out.Hits, hit)
		}
		i = j
	}
	return out, nil
}

// read fills a hit from its stored document.
func (h *Hit) read(f found, q question) error {
	b, err := f.in.read(f.doc)
	if err != nil {
		return err
	}
	d, _, err := readStored(b)
	if err != nil {
		return fmt.Errorf("search: %s: %w", h.ID, err)
	}
	h.Source = d.Source
	for _, t := range append([]Text{{"name", d.Name}}, d.Also...) {
		if ranges := q.ranges(t.Text); len(ranges) > 0 {
			h.Highlights = append(h.Highlights, Highlight{t.Field, t.Text, ranges})
		}
	}
	return nil
}

func makeCursor(score float64, id string) string {
	return base64.RawURLEncoding.EncodeToString(append(binary.BigEndian.AppendUint64(nil, math.Float64bits(score)), id...))
}

func parseCursor(s string) (score float64, id string, err error) {
	if s == "" {
		return 0, "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) <= 8 {
		return 0, "", fmt.Errorf("cursor is not one of ours: %w", media.ErrInvalid)
	}
	return math.Float64frombits(binary.BigEndian.Uint64(b)), string(b[8:]), nil
}
