package search

import (
	"container/list"
	"fmt"
	"strings"
	"sync"
)

// cache keeps the answers that were asked for last, up to a number of bytes. An answer is of one view: what is written
// makes all of them useless, and they leave by age.
type cache struct {
	most int64

	mu    sync.Mutex // guards the fields below
	size  int64
	order *list.List // of *cached, the last used first
	by    map[string]*list.Element
	hits  uint64
	all   uint64
}

type cached struct {
	name string
	size int64
	r    Result
}

func newCache(most int64) *cache {
	return &cache{most: most, order: list.New(), by: map[string]*list.Element{}}
}

// cacheKey is the same for queries with the same answer: case and accents do not matter, but lists and filters do.
func cacheKey(q Query, ask question, view uint64, building bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %t %d %q %v %q", view, building, q.Limit, q.Cursor, ask.kinds, ask.filters)
	for _, p := range ask.parts {
		b.WriteByte(0)
		b.WriteString(p.text)
	}
	for _, u := range ask.units {
		fmt.Fprintf(&b, "\x01%q%q%t", u.words, u.whole, u.prefix)
	}
	return b.String()
}

func (c *cache) get(name string) (Result, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all++
	e, ok := c.by[name]
	if !ok {
		return Result{}, false
	}
	c.hits++
	c.order.MoveToFront(e)
	return e.Value.(*cached).r, true
}

func (c *cache) put(name string, r Result) {
	size := int64(len(name)) + 256
	for _, l := range r.Lists {
		for _, h := range l.Hits {
			size += int64(len(h.Source)) + 200
			for _, t := range h.Highlights {
				size += int64(len(t.Text)) + 64
			}
		}
	}
	if size > c.most/8 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.by[name]; ok {
		return
	}
	c.by[name] = c.order.PushFront(&cached{name, size, r})
	for c.size += size; c.size > c.most; {
		e := c.order.Back()
		old := c.order.Remove(e).(*cached)
		delete(c.by, old.name)
		c.size -= old.size
	}
}
