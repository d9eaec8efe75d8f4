package loadtest

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"segue/media"
)

// Condition is one thing that must not be so: `startup.p99>1s`.
//
//	startup, seek, stall, gap, lag, or an operation, as segment  .p50 .p95 .p99 .p999 .mean .max   a time
//	stalls, stall_ratio (of playing time), failed (of plays), errors (of requests)                 a part (0.1%), or for stalls a number
//	hit_ratio                                                                                      a part
//	egress                                                                                         bit/s: 1Gbit/s
//	plays, listeners                                                                               a number
type Condition struct {
	text  string
	what  string
	stat  string
	op    string
	limit float64 // seconds, parts, bit/s or a number
}

var conditionForm = regexp.MustCompile(`^\s*([a-z_]+)(?:\.(p50|p95|p99|p999|mean|max))?\s*(>=|<=|>|<)\s*([0-9.]+)\s*([A-Za-zµ%/]*)\s*$`)

var simple = map[string]func(r *Result) float64{
	"stalls":    func(r *Result) float64 { return float64(r.Counts.Stalls) },
	"plays":     func(r *Result) float64 { return float64(r.Counts.Plays) },
	"listeners": func(r *Result) float64 { return float64(r.Counts.Peak) },
	"egress":    (*Result).EgressBps,
	"hit_ratio": (*Result).HitRatio,
	"stall_ratio": func(r *Result) float64 {
		return r.Counts.StallS / max(r.Counts.StallS+r.Counts.PlayedS, 1e-9)
	},
	"failed": func(r *Result) float64 {
		return float64(r.Counts.Failed) / max(float64(r.Counts.Failed+r.Counts.Plays), 1)
	},
	"errors": func(r *Result) float64 {
		good, bad := r.Requests()
		return float64(bad) / max(float64(good+bad), 1)
	},
}

var timed = []string{momentStartup, momentSeek, momentStall, momentGap, momentLag, opSignIn, opRefresh, opSearch, opPlayback, opRenew, opMaster, opPlaylist, opInit, opSegment, opScrape, opEvents, opSteering}

// ParseCondition reads one. What it names must exist: a misspelt threshold would never fail.
func ParseCondition(text string) (Condition, error) {
	bad := func(why string) (Condition, error) {
		return Condition{}, fmt.Errorf("condition %q: %s: %w", text, why, media.ErrInvalid)
	}
	m := conditionForm.FindStringSubmatch(text)
	if m == nil {
		return bad("want a form like startup.p99>1s")
	}
	c := Condition{text: strings.ReplaceAll(text, " ", ""), what: m[1], stat: m[2], op: m[3]}
	limit, err := strconv.ParseFloat(m[4], 64)
	if err != nil {
		return bad("its limit is no number")
	}
	c.limit = limit
	unit := m[5]
	switch {
	case slices.Contains(timed, c.what) && c.stat != "":
		d, err := time.ParseDuration(m[4] + unit)
		if err != nil {
			return bad("its limit is no time, as 200ms")
		}
		c.limit = d.Seconds()
	case simple[c.what] == nil || c.stat != "":
		return bad("want " + strings.Join(slices.Sorted(maps.Keys(simple)), ", ") + ", or .p50, .p95, .p99, .p999, .mean, .max of " + strings.Join(timed, ", "))
	case unit == "":
	case c.what == "egress":
		scale, ok := map[string]float64{"bit/s": 1, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9}[unit]
		if !ok {
			return bad("want kbit/s, Mbit/s or Gbit/s")
		}
		c.limit *= scale
	case unit == "%" && slices.Contains([]string{"hit_ratio", "stall_ratio", "failed", "errors"}, c.what):
		c.limit /= 100
	default:
		return bad("unknown unit " + unit)
	}
	return c, nil
}

// Value is what the condition is about. ok is false where there was no such thing in the run.
func (c Condition) Value(r *Result) (v float64, ok bool) {
	if f := simple[c.what]; f != nil {
		v = f(r)
		return v, v >= 0
	}
	l, ok := r.Moments[c.what]
	if !ok {
		var o Operation
		if o, ok = r.Operations[c.what]; ok {
			l = o.Response
		}
	}
	if !ok || l.Count == 0 {
		return 0, false
	}
	us := map[string]float64{"p50": float64(l.P50), "p95": float64(l.P95), "p99": float64(l.P99), "p999": float64(l.P999), "mean": l.Mean, "max": float64(l.Max)}[c.stat]
	return us / 1e6, true
}

// Check is an error when it is so; also when there is nothing to tell by, but for what is good when it never happens.
func (c Condition) Check(r *Result) error {
	v, ok := c.Value(r)
	if !ok {
		if slices.Contains([]string{momentStall, momentSeek, momentGap, opSignIn, opRefresh, opRenew}, c.what) {
			return nil
		}
		return fmt.Errorf("%s: nothing of that was measured", c.text)
	}
	so := map[string]bool{">": v > c.limit, "<": v < c.limit, ">=": v >= c.limit, "<=": v <= c.limit}[c.op]
	if !so {
		return nil
	}
	return fmt.Errorf("%s: it is %s", c.text, c.print(v))
}

func (c Condition) print(v float64) string {
	switch {
	case c.stat != "":
		return seconds(v)
	case c.what == "egress":
		return bits(v)
	case c.what == "stalls" || c.what == "plays" || c.what == "listeners":
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(100*v, 'f', 3, 64) + "%"
}

func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d >= time.Second:
		return strconv.FormatFloat(s, 'f', 2, 64) + " s"
	case d >= 10*time.Millisecond:
		return strconv.FormatFloat(s*1e3, 'f', 0, 64) + " ms"
	}
	return strconv.FormatFloat(s*1e3, 'f', 2, 64) + " ms"
}

func micros(us int64) string { return seconds(float64(us) / 1e6) }

func bits(v float64) string {
	for _, u := range []struct {
		size float64
		name string
	}{{1e12, "Tbit/s"}, {1e9, "Gbit/s"}, {1e6, "Mbit/s"}, {1e3, "kbit/s"}} {
		if v >= u.size {
			return strconv.FormatFloat(v/u.size, 'f', 2, 64) + " " + u.name
		}
	}
	return strconv.FormatFloat(v, 'f', 0, 64) + " bit/s"
}
