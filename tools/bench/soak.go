package main

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// soakSizes are the sizes that a soak asks for: metas churn with the small ones, blocks with the large.
var soakSizes = []int64{512, 16 << 10, 64 << 10, 300_000, 1 << 20, 8 << 20}

// soak has a server evict all the time: Zipf over 20,000 objects of each size, a fifth of all requests for objects that nobody asks
// for again, ranges, HEADs, and players that leave in mid-body. It ends after so many bytes were fetched from the origin and prints
// the server's memory in KB at each tenth of the way.
func soak(base, origin, pids string, conns int, churn int64) error {
	const objects = 20_000
	cdf, sum := make([]float64, objects), 0.0
	for i := range cdf {
		sum += 1 / math.Pow(float64(i+1), 0.9)
		cdf[i] = sum
	}
	var stop atomic.Bool
	var once atomic.Int64
	errs := make(chan error, conns)
	var wg sync.WaitGroup
	for i := range conns {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(7, uint64(i)))
			c, err := dial(base)
			for err == nil && !stop.Load() {
				size := soakSizes[rng.IntN(len(soakSizes))]
				if size > 1<<20 && rng.IntN(8) != 0 {
					size = 16 << 10
				}
				path := fmt.Sprintf("/%d/s%d", size, sort.SearchFloat64s(cdf, rng.Float64()*sum))
				if rng.IntN(5) == 0 {
					path = fmt.Sprintf("/%d/once%d", size, once.Add(1))
				}
				switch rng.IntN(20) {
				case 0: // leaves in mid-body
					_, err = io.WriteString(c.conn, "GET "+path+" HTTP/1.1\r\nHost: "+c.host+"\r\n\r\n")
					if err == nil {
						_, err = c.conn.Read(c.buf[:200])
					}
					c.conn.Close()
					if err == nil {
						c, err = dial(base)
					}
				case 1, 2:
					first := rng.Int64N(size)
					_, err = c.get(path, fmt.Sprintf("%d-%d", first, min(size-1, first+128<<10)))
				default:
					_, err = c.get(path, "")
				}
			}
			if err != nil {
				errs <- err
			}
		})
	}
	_, begun, err := originStats(origin)
	if err != nil {
		return err
	}
	var samples []string
	most := int64(0)
	for next := int64(1); next <= 10; {
		time.Sleep(200 * time.Millisecond)
		_, now, err := originStats(origin)
		if err != nil {
			return err
		}
		kb, err := resident(pids)
		if err != nil {
			return err
		}
		most = max(most, kb)
		if now-begun >= churn/10*next {
			samples = append(samples, strconv.FormatInt(kb, 10))
			next++
		}
		select {
		case err := <-errs:
			return err
		default:
		}
	}
	stop.Store(true)
	wg.Wait()
	fmt.Println(most, strings.Join(samples, " "))
	return nil
}
