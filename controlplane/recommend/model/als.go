package model

import (
	"math"
	"math/rand/v2"
	"sync"
)

// Weighted implicit matrix factorisation by alternating least squares (Hu, Koren, Volinsky 2008), with the loss of Rendle
// and others (2021): the sum over heard pairs of w(1-u·v)², plus All times the sum over all pairs of (u·v)², plus Ridge
// times how much is known of a row times its square. A row is solved by a few steps of conjugate gradient from where it
// was, which costs a small part of a Cholesky solution and ends at the same place over the sweeps.

// als are its parameters.
type als struct {
	dim, sweeps int
	all         float32 // weight of what was not heard
	ridge       float32
	threads     int
}

const cgSteps = 3

// factors is rows of dim numbers.
type factors []float32

func (f factors) row(i, dim int) []float32 { return f[i*dim : (i+1)*dim : (i+1)*dim] }

func randomFactors(n, dim int, rng *rand.Rand) factors {
	f := make(factors, n*dim)
	scale := 0.1 / math.Sqrt(float64(dim))
	for i := range f {
		f[i] = float32(rng.NormFloat64() * scale)
	}
	return f
}

// train fits users and items, both in place. byUser and byItem are the same matrix.
func (a als) train(byUser, byItem *matrix, users, items factors) {
	for range a.sweeps {
		a.half(byUser, users, items)
		a.half(byItem, items, users)
	}
}

// half solves all rows of one side with the other side as it is.
func (a als) half(rows *matrix, solve, fixed factors) {
	gram := a.gram(fixed)
	n := rows.rows()
	others := float32(len(fixed)/a.dim) * a.all
	var group sync.WaitGroup
	per := (n + a.threads - 1) / a.threads
	for from := 0; from < n; from += per {
		group.Go(func() {
			s := newSolver(a.dim)
			for i := from; i < min(n, from+per); i++ {
				cols, vals := rows.row(i)
				x := solve.row(i, a.dim)
				if len(cols) == 0 {
					clear(x)
					continue
				}
				// As much ridge as there is evidence: what is heard, and a little of what is not.
				s.solve(x, gram, a.ridge*(float32(len(cols))+others), fixed, cols, vals, vals, cgSteps)
			}
		})
	}
	group.Wait()
}

// gram is All times the sum of v vᵀ.
func (a als) gram(f factors) []float32 {
	d := a.dim
	sum := make([]float64, d*d)
	part := make([]float32, d*d)
	n := len(f) / d
	for i := range n {
		v := f.row(i, d)
		for r, x := range v {
			if x != 0 {
				axpy(x, v[:r+1], part[r*d:r*d+r+1])
			}
		}
		if i%256 == 255 || i == n-1 { // single precision is enough for a few hundred terms, not for a million
			for j, x := range part {
				sum[j] += float64(x)
			}
			clear(part)
		}
	}
	out := make([]float32, d*d)
	for r := range d {
		for c := range r + 1 {
			out[r*d+c] = float32(sum[r*d+c]) * a.all
			out[c*d+r] = out[r*d+c]
		}
	}
	return out
}

// solver holds the vectors of conjugate gradient.
type solver struct{ r, p, q []float32 }

func newSolver(dim int) *solver {
	return &solver{make([]float32, dim), make([]float32, dim), make([]float32, dim)}
}

// solve improves x towards the solution of (gram + Σ w v vᵀ + ridge) x = Σ t v, with v the rows of fixed that cols names.
func (s *solver) solve(x, gram []float32, ridge float32, fixed factors, cols []uint32, w, t []float32, steps int) {
	d := len(x)
	apply := func(in, out []float32) {
		for i := range d {
			out[i] = ridge*in[i] + dot(gram[i*d:(i+1)*d], in)
		}
		for i, c := range cols {
			v := fixed.row(int(c), d)
			axpy(w[i]*dot(v, in), v, out)
		}
	}
	apply(x, s.q)
	for i := range d {
		s.r[i] = -s.q[i]
	}
	for i, c := range cols {
		if t[i] != 0 {
			axpy(t[i], fixed.row(int(c), d), s.r)
		}
	}
	copy(s.p, s.r)
	rr := dot(s.r, s.r)
	for range steps {
		if rr < 1e-12 {
			return
		}
		apply(s.p, s.q)
		pq := dot(s.p, s.q)
		if pq <= 0 {
			return
		}
		step := rr / pq
		axpy(step, s.p, x)
		axpy(-step, s.q, s.r)
		next := dot(s.r, s.r)
		beta := next / rr
		for i := range d {
			s.p[i] = s.r[i] + beta*s.p[i]
		}
		rr = next
	}
}

// dot and axpy in steps of four, whose sums do not wait for each other.
func dot(a, b []float32) float32 {
	b = b[:len(a)]
	var s0, s1, s2, s3 float32
	i := 0
	for ; i+4 <= len(a); i += 4 {
		s0 += a[i] * b[i]
		s1 += a[i+1] * b[i+1]
		s2 += a[i+2] * b[i+2]
		s3 += a[i+3] * b[i+3]
	}
	for ; i < len(a); i++ {
		s0 += a[i] * b[i]
	}
	return s0 + s1 + s2 + s3
}

func axpy(k float32, x, y []float32) {
	y = y[:len(x)]
	i := 0
	for ; i+4 <= len(x); i += 4 {
		y[i] += k * x[i]
		y[i+1] += k * x[i+1]
		y[i+2] += k * x[i+2]
		y[i+3] += k * x[i+3]
	}
	for ; i < len(x); i++ {
		y[i] += k * x[i]
	}
}

func norm(a []float32) float32 { return float32(math.Sqrt(float64(dot(a, a)))) }
