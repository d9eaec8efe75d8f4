package loadtest

import (
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// HTML writes the report as one page that needs nothing else: styles and charts are in it.
func (r *Result) HTML(w io.Writer) error {
	charts, err := r.charts()
	if err != nil {
		return err
	}
	type row struct {
		Name                      string
		Count                     int64
		P50, P95, P99, P999, Most string
	}
	var rows []row
	add := func(name string, l Latency) {
		if l.Count > 0 {
			rows = append(rows, row{name, l.Count, micros(l.P50), micros(l.P95), micros(l.P99), micros(l.P999), micros(l.Max)})
		}
	}
	for _, name := range []string{momentStartup, momentSeek, momentGap, momentStall} {
		add(name, r.Moments[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.Operations)) {
		add(name+" (from the intended moment)", r.Operations[name].Response)
		add(name+" (from sending)", r.Operations[name].Service)
	}
	add("the generator's own lag", r.Moments[momentLag])
	good, bad := r.Requests()
	return page.Execute(w, map[string]any{"R": r, "Charts": charts, "Rows": rows, "Good": good, "Bad": bad, "Egress": bits(r.EgressBps()), "Tiers": tierText(r),
		"Rate": fmt.Sprintf("%.0f", float64(good)/r.seconds()), "Startup": micros(r.Moments[momentStartup].P99)})
}

var page = template.Must(template.New("report").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Load test: {{.R.Name}}</title><meta name="viewport" content="width=device-width">
<style>
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1c1f24;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.6rem 0 .3rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}td,th{padding:.15rem .6rem;text-align:right;border-bottom:1px solid #e3e6ea}td:first-child,th:first-child{text-align:left}
.valid{background:#e4f4e6;padding:.5rem .8rem}.invalid{background:#fbe3e1;padding:.5rem .8rem}
svg{width:100%;height:auto;display:block}text{font:11px system-ui,sans-serif;fill:#555}.key{font-size:.85rem;color:#444}.key i{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 1em}
@media(prefers-color-scheme:dark){body{background:#16181c;color:#e4e6e9}td,th{border-color:#33373d}.valid{background:#1d3a22}.invalid{background:#4a2320}text{fill:#aaa}.key{color:#bbb}}
</style></head><body>
<h1>{{.R.Name}}: {{.R.Wanted}} listeners for {{printf "%.0f" .R.SecondsRun}} s</h1>
<p>{{.R.Base}}, begun {{.R.Began.Format "2006-01-02 15:04:05 UTC"}}, {{.R.Generators}} generator(s) on {{.R.Machine}}, version {{.R.Version}}, seed {{.R.Seed}}. {{.R.Connections}}.</p>
{{if .R.Verdict.Valid}}<p class="valid">The run is valid: the generator kept its schedule.</p>{{else}}<div class="invalid">The run is invalid; its figures are not the platform's.<ul>{{range .R.Verdict.Reasons}}<li>{{.}}</li>{{end}}</ul></div>{{end}}
<p>{{.R.Counts.Plays}} plays began, {{.R.Counts.Failed}} failed; start-up p99 {{.Startup}}; {{.R.Counts.Stalls}} stalls of {{printf "%.1f" .R.Counts.StallS}} s together; {{.Good}} requests ({{.Rate}}/s), {{.Bad}} errors; {{.Egress}} from the edges ({{.Tiers}}).
{{.R.Counts.Sampled}} replies were compared with the files' sha256: {{.R.Counts.Mismatched}} were wrong.</p>
{{range .Charts}}<h2>{{.Title}}</h2><div class="key">{{range .Lines}}<i style="background:{{.Colour}}"></i>{{.Name}}{{end}}</div>{{.SVG}}{{end}}
<h2>Latencies</h2><table><tr><th></th><th>count</th><th>p50</th><th>p95</th><th>p99</th><th>p99.9</th><th>max</th></tr>
{{range .Rows}}<tr><td>{{.Name}}</td><td>{{.Count}}</td><td>{{.P50}}</td><td>{{.P95}}</td><td>{{.P99}}</td><td>{{.P999}}</td><td>{{.Most}}</td></tr>{{end}}</table>
{{if .R.Errors}}<h2>Errors</h2><table><tr><th>operation</th><th>kind</th><th>count</th></tr>{{range .R.Errors}}<tr><td>{{.Operation}}</td><td>{{.Kind}}</td><td>{{.Count}}</td></tr>{{end}}</table>{{end}}
</body></html>
`))

type chart struct {
	Title string
	Lines []line
	SVG   template.HTML
}

type line struct {
	Name   string
	Colour template.CSS
	values []float64 // NaN: nothing
}

var colours = []template.CSS{"#2f6fb5", "#d9822b", "#3a9a5b", "#b5413c", "#7a57a8"}

// charts draws the run's time line.
func (r *Result) charts() ([]chart, error) {
	n := len(r.Intervals)
	p50, p99 := make([]float64, n), make([]float64, n)
	many := func(f func(*Interval) float64) []float64 {
		out := make([]float64, n)
		for i := range r.Intervals {
			out[i] = f(&r.Intervals[i])
		}
		return out
	}
	for i := range r.Intervals {
		h, err := histogram(r.Intervals[i].Startup)
		if err != nil {
			return nil, err
		}
		p50[i], p99[i] = math.NaN(), math.NaN()
		if h.TotalCount() > 0 {
			p50[i], p99[i] = float64(h.ValueAtQuantile(50))/1e3, float64(h.ValueAtQuantile(99))/1e3
		}
	}
	out := []chart{
		{Title: "Listeners", Lines: []line{{Name: "at once", values: many(func(i *Interval) float64 { return float64(i.Listeners) })}}},
		{Title: "Start-up, ms", Lines: []line{{Name: "p50", values: p50}, {Name: "p99", values: p99}}},
		{Title: "Requests and errors per second", Lines: []line{{Name: "requests", values: many(func(i *Interval) float64 { return float64(i.Requests) / r.IntervalS })}, {Name: "errors", values: many(func(i *Interval) float64 { return float64(i.Errors) / r.IntervalS })}}},
		{Title: "From the edges, Mbit/s", Lines: []line{{Name: "media", values: many(func(i *Interval) float64 { return float64(i.Bytes) * 8 / 1e6 / r.IntervalS })}}},
		{Title: "Stalls, and the generator's longest lag, ms", Lines: []line{{Name: "stalls", values: many(func(i *Interval) float64 { return float64(i.Stalls) })}, {Name: "lag", values: many(func(i *Interval) float64 { return float64(i.LagUS) / 1e3 })}}},
	}
	tierChart := chart{Title: "Where the edges had the bytes, % of requests"}
	for t, name := range tiers {
		values, any := make([]float64, n), false
		for i := range r.Intervals {
			var all int64
			for _, c := range r.Intervals[i].Tiers {
				all += c
			}
			values[i] = math.NaN()
			if all > 0 {
				values[i] = 100 * float64(r.Intervals[i].Tiers[t]) / float64(all)
				any = any || r.Intervals[i].Tiers[t] > 0
			}
		}
		if any {
			tierChart.Lines = append(tierChart.Lines, line{Name: name, values: values})
		}
	}
	out = append(out, tierChart)
	for i := range out {
		for k := range out[i].Lines {
			out[i].Lines[k].Colour = colours[k%len(colours)]
		}
		out[i].SVG = r.draw(&out[i])
	}
	return out, nil
}

// nice is the first of 1, 2 and 5 times a power of ten that is not less.
func nice(v float64) float64 {
	if !(v > 0) {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5, 10} {
		if m*p >= v {
			return m * p
		}
	}
	return 10 * p
}

// draw prints one chart. All text in it is ours or numbers, but for the marks, which are escaped.
func (r *Result) draw(c *chart) template.HTML {
	const wide, high, left, top, bottom = 900.0, 170.0, 52.0, 8.0, 20.0
	most := 0.0
	for _, l := range c.Lines {
		for _, v := range l.values {
			if !math.IsNaN(v) {
				most = max(most, v)
			}
		}
	}
	most = nice(most)
	n := max(len(r.Intervals), 1)
	span := float64(n) * r.IntervalS
	x := func(at float64) float64 { return left + at/span*(wide-left-8) }
	y := func(v float64) float64 { return top + (1-v/most)*(high-top-bottom) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, wide, high, template.HTMLEscapeString(c.Title))
	for i := range 3 {
		v := most * float64(i) / 2
		fmt.Fprintf(&b, `<line x1="%g" x2="%g" y1="%.1f" y2="%.1f" stroke="#8884"/><text x="%g" y="%.1f" text-anchor="end">%.4g</text>`, left, wide-8, y(v), y(v), left-6, y(v)+4, v)
	}
	for i := range 7 {
		at := span * float64(i) / 6
		fmt.Fprintf(&b, `<text x="%.1f" y="%g" text-anchor="middle">%.0f s</text>`, x(at), high-5, at)
	}
	for i, v := range r.Intervals {
		if v.Mark != "" {
			fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%g" y2="%g" stroke="#b5413c" stroke-dasharray="4 3"/><text x="%.1f" y="%g">%s</text>`,
				x(float64(i)*r.IntervalS), x(float64(i)*r.IntervalS), top, high-bottom, x(float64(i)*r.IntervalS)+4, top+10, template.HTMLEscapeString(v.Mark))
		}
	}
	for _, l := range c.Lines {
		fmt.Fprintf(&b, `<path fill="none" stroke="%s" stroke-width="1.5" d="`, l.Colour)
		pen := "M"
		for i, v := range l.values {
			if math.IsNaN(v) {
				pen = "M"
				continue
			}
			fmt.Fprintf(&b, "%s%.1f %.1f", pen, x((float64(i)+.5)*r.IntervalS), y(v))
			if pen == "M" {
				fmt.Fprintf(&b, "h0.1") // a point alone is seen too
			}
			pen = "L"
		}
		b.WriteString(`"/>`)
	}
	b.WriteString("</svg>")
	return template.HTML(b.String())
}
