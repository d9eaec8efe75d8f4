package model

import (
	"cmp"
	"slices"
)

// Groups divides tracks into up to n groups that go together (k-means on the sphere), the largest first; in each, the track
// in its middle comes first. The same tracks make the same groups.
func (m *Model) Groups(items []int, n int) [][]int {
	if n < 1 || len(items) == 0 {
		return nil
	}
	unit := make([][]float32, len(items))
	for i, item := range items {
		v := slices.Clone(m.vecs.row(item, m.Dim))
		if l := norm(v); l > 0 {
			for j := range v {
				v[j] /= l
			}
		}
		unit[i] = v
	}
	// The first centre is a track; each further one is the track that is farthest from those before it.
	centres := [][]float32{slices.Clone(unit[0])}
	for len(centres) < n {
		far, least := 0, float32(2)
		for i, v := range unit {
			near := float32(-2)
			for _, c := range centres {
				near = max(near, dot(v, c))
			}
			if near < least {
				far, least = i, near
			}
		}
		centres = append(centres, slices.Clone(unit[far]))
	}
	of := make([]int, len(items))
	for range 8 {
		for i, v := range unit {
			best := float32(-2)
			for c, centre := range centres {
				if s := dot(v, centre); s > best {
					of[i], best = c, s
				}
			}
		}
		for c := range centres {
			sum := make([]float32, m.Dim)
			for i, v := range unit {
				if of[i] == c {
					axpy(1, v, sum)
				}
			}
			if l := norm(sum); l > 0 {
				for j := range sum {
					sum[j] /= l
				}
				centres[c] = sum
			}
		}
	}
	out := make([][]int, n)
	order := make([]int, len(items))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(dot(unit[b], centres[of[b]]), dot(unit[a], centres[of[a]])) })
	for _, i := range order {
		out[of[i]] = append(out[of[i]], items[i])
	}
	slices.SortStableFunc(out, func(a, b []int) int { return cmp.Compare(len(b), len(a)) })
	return slices.DeleteFunc(out, func(g []int) bool { return len(g) == 0 })
}
