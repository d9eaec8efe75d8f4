package model

import "math"

// Grade says how well a list, best first, holds what was wanted: NDCG with equal gains, and recall, both at n, and both
// against what a list of n can hold at most.
func Grade(list []int, want map[int]bool, n int) (ndcg, recall float64) {
	most := min(len(want), n)
	if most == 0 {
		return 0, 0
	}
	var gain, ideal, hits float64
	for i, item := range list[:min(len(list), n)] {
		if want[item] {
			gain += 1 / math.Log2(float64(i)+2)
			hits++
		}
	}
	for i := range most {
		ideal += 1 / math.Log2(float64(i)+2)
	}
	return gain / ideal, hits / float64(most)
}

func expm1(x float32) float32 { return float32(math.Expm1(float64(x))) }
func exp2(x float32) float32  { return float32(math.Exp2(float64(x))) }
