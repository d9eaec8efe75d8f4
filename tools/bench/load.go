package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// client is a small HTTP/1.1 client on one connection: it counts bytes and throws them away.
type client struct {
	conn net.Conn
	buf  []byte
	host string
}

func dial(base string) (*client, error) {
	host := strings.TrimPrefix(base, "http://")
	c, err := net.Dial("tcp", host)
	if err != nil {
		return nil, err
	}
	return &client{c, make([]byte, 64<<10), host}, nil
}

// answer says what came: when the first and the last byte of the body did, and how many there were.
type answer struct {
	status      int
	first, last time.Time
	bytes       int64
}

func (c *client) get(path, rng string) (a answer, err error) {
	req := "GET " + path + " HTTP/1.1\r\nHost: " + c.host + "\r\n"
	if rng != "" {
		req += "Range: bytes=" + rng + "\r\n"
	}
	if _, err := io.WriteString(c.conn, req+"\r\n"); err != nil {
		return a, err
	}
	n := 0
	var end int
	for {
		k, err := c.conn.Read(c.buf[n:])
		if err != nil {
			return a, err
		}
		n += k
		if end = bytes.Index(c.buf[:n], []byte("\r\n\r\n")); end >= 0 {
			break
		}
	}
	head := bytes.ToLower(c.buf[:end+2])
	a.status, _ = strconv.Atoi(string(head[9:12]))
	_, rest, ok := bytes.Cut(head, []byte("\r\ncontent-length:"))
	if !ok {
		return a, fmt.Errorf("no length: %s", head)
	}
	value, _, _ := bytes.Cut(rest, []byte("\r\n"))
	length, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
	if err != nil {
		return a, err
	}
	a.bytes = int64(n - end - 4)
	if a.bytes > 0 {
		a.first = time.Now()
	}
	for a.bytes < length {
		k, err := c.conn.Read(c.buf)
		if err != nil {
			return a, err
		}
		if a.bytes == 0 {
			a.first = time.Now()
		}
		a.bytes += int64(k)
	}
	a.last = time.Now()
	return a, nil
}

func originStats(base string) (gets, bytes int64, err error) {
	resp, err := http.Get(base + "/stats")
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	_, err = fmt.Fscan(resp.Body, &gets, &bytes)
	return gets, bytes, err
}

// zipf asks for 20,000 objects of 64 KiB; the second half of the requests is measured.
func zipf(base, origin string, conns, requests int, alpha float64, seed uint64) error {
	const objects = 20_000
	cdf := make([]float64, objects)
	sum := 0.0
	for i := range cdf {
		sum += 1 / math.Pow(float64(i+1), alpha)
		cdf[i] = sum
	}
	phase := func(n int, seed uint64) (time.Duration, int64, error) {
		before, _, err := originStats(origin)
		if err != nil {
			return 0, 0, err
		}
		begun := time.Now()
		var left atomic.Int64
		left.Store(int64(n))
		var wg sync.WaitGroup
		errs := make(chan error, conns)
		for i := range conns {
			wg.Go(func() {
				c, err := dial(base)
				if err != nil {
					errs <- err
					return
				}
				defer c.conn.Close()
				rng := rand.New(rand.NewPCG(seed, uint64(i)))
				for left.Add(-1) >= 0 {
					k := sort.SearchFloat64s(cdf, rng.Float64()*sum)
					a, err := c.get(fmt.Sprintf("/65536/z%d", k), "")
					if err == nil && (a.status != 200 || a.bytes != 64<<10) {
						err = fmt.Errorf("status %d, %d bytes", a.status, a.bytes)
					}
					if err != nil {
						errs <- err
						return
					}
				}
			})
		}
		wg.Wait()
		took := time.Since(begun)
		after, _, err := originStats(origin)
		select {
		case err := <-errs:
			return 0, 0, err
		default:
			return took, after - before, err
		}
	}
	if _, _, err := phase(requests/2, seed); err != nil {
		return err
	}
	took, misses, err := phase(requests/2, seed+1)
	if err != nil {
		return err
	}
	n := float64(requests / 2)
	fmt.Printf("%.0f %.2f\n", n/took.Seconds(), 100*(1-float64(misses)/n))
	return nil
}

// herd lets n clients ask for one object at once. It prints the first byte's p50 and p99 and the same of the whole, ms.
// One thread reads whichever connection has something, one read each in turn: clients are machines of their own in life,
// and none may starve because another one's bytes are here already.
func herd(base, path string, n int) error {
	poll, err := unix.EpollCreate1(0)
	if err != nil {
		return err
	}
	defer unix.Close(poll)
	fds := make([]int, n)
	at := map[int32]int{}
	for i := range fds {
		c, err := dial(base)
		if err != nil {
			return err
		}
		file, err := c.conn.(*net.TCPConn).File()
		if err != nil {
			return err
		}
		defer file.Close()
		c.conn.Close()
		fds[i] = int(file.Fd())
		at[int32(fds[i])] = i
		if err := unix.SetNonblock(fds[i], true); err != nil {
			return err
		}
		if err := unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, fds[i], &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fds[i])}); err != nil {
			return err
		}
	}
	time.Sleep(300 * time.Millisecond) // all accepted
	replies := make([]reply, n)
	request := []byte("GET " + path + " HTTP/1.1\r\nHost: " + strings.TrimPrefix(base, "http://") + "\r\n\r\n")
	buf, events := make([]byte, 64<<10), make([]unix.EpollEvent, n)
	begun := time.Now()
	for _, fd := range fds {
		if _, err := unix.Write(fd, request); err != nil {
			return err
		}
	}
	for left := n; left > 0; {
		ready, err := unix.EpollWait(poll, events, 10_000)
		if err == unix.EINTR {
			continue
		} else if err != nil || ready == 0 {
			return fmt.Errorf("%d clients wait in vain: %w", left, err)
		}
		for _, e := range events[:ready] {
			k, err := unix.Read(int(e.Fd), buf)
			if err == unix.EAGAIN {
				continue
			} else if err != nil || k == 0 {
				return fmt.Errorf("a client lost its connection: %w", err)
			}
			r := &replies[at[e.Fd]]
			done, err := r.take(buf[:k], time.Since(begun))
			if err != nil {
				return err
			}
			if done {
				left--
			}
		}
	}
	first, whole := make([]float64, n), make([]float64, n)
	for i, r := range replies {
		first[i], whole[i] = r.first.Seconds()*1e3, r.last.Seconds()*1e3
	}
	slices.Sort(first)
	slices.Sort(whole)
	fmt.Printf("%.1f %.1f %.1f %.1f\n", first[n/2], first[n*99/100], whole[n/2], whole[n*99/100])
	return nil
}

// reply is how far one answer is: when the first and the last byte of its body came.
type reply struct {
	head        []byte // until it is whole
	left        int64  // of the body; 0 with a last: done
	first, last time.Duration
}

// take reads on; at is the time of these bytes.
func (r *reply) take(b []byte, at time.Duration) (done bool, err error) {
	if r.left == 0 {
		r.head = append(r.head, b...)
		end := bytes.Index(r.head, []byte("\r\n\r\n"))
		if end < 0 {
			return false, nil
		}
		_, rest, ok := bytes.Cut(bytes.ToLower(r.head[:end+2]), []byte("\r\ncontent-length:"))
		value, _, _ := bytes.Cut(rest, []byte("\r\n"))
		r.left, err = strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
		if !ok || err != nil || !bytes.HasPrefix(r.head, []byte("HTTP/1.1 200")) {
			return false, fmt.Errorf("not a reply of a known length: %s", r.head[:end])
		}
		b, r.head = r.head[end+4:], nil
	}
	if len(b) > 0 && r.first == 0 {
		r.first = at
	}
	if r.left -= int64(len(b)); r.left == 0 {
		r.last = at
	}
	return r.left == 0, nil
}

// cold asks once. It prints first byte and whole, in ms.
func cold(base, path, rng string) error {
	c, err := dial(base)
	if err != nil {
		return err
	}
	begun := time.Now()
	a, err := c.get(path, rng)
	if err != nil {
		return err
	}
	fmt.Printf("%.1f %.1f\n", a.first.Sub(begun).Seconds()*1e3, a.last.Sub(begun).Seconds()*1e3)
	return nil
}

// idle opens n connections, asks once on each, and prints the server's growth in KB per connection.
func idle(base, path string, n int, hold time.Duration, pids string) error {
	before, err := resident(pids)
	if err != nil {
		return err
	}
	conns := make([]net.Conn, 0, n)
	for range n {
		c, err := dial(base)
		if err != nil {
			return err
		}
		if a, err := c.get(path, ""); err != nil || a.status != 200 {
			return fmt.Errorf("status %d: %w", a.status, err)
		}
		conns = append(conns, c.conn)
	}
	time.Sleep(hold)
	after, err := resident(pids)
	if err != nil {
		return err
	}
	alive := 0
	for _, c := range conns {
		c.SetReadDeadline(time.Now().Add(time.Millisecond / 10))
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			alive++
		}
	}
	fmt.Printf("%.2f %d\n", float64(after-before)/float64(n), alive)
	return nil
}

// resident is the memory of processes, in KB.
func resident(pids string) (kb int64, err error) {
	for pid := range strings.SplitSeq(pids, ",") {
		f, err := os.Open("/proc/" + pid + "/status")
		if err != nil {
			return 0, err
		}
		sc := bufio.NewScanner(f)
		for sc.Scan() {
			if rest, ok := strings.CutPrefix(sc.Text(), "VmRSS:"); ok {
				v, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				if err != nil {
					return 0, err
				}
				kb += v
			}
		}
		f.Close()
	}
	return kb, nil
}
