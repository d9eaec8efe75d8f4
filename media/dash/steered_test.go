package dash_test

import (
	"encoding/xml"
	"errors"
	"strings"
	"testing"
	"time"

	"segue/media"
	"segue/media/dash"

	"github.com/google/go-cmp/cmp"
)

var pathways = []dash.Pathway{{ID: "eu-1", URL: "https://eu.example/t/tok/media/a/b/"}, {ID: "us-1", URL: "https://us.example/t/tok/media/a/b/"}}

func TestSteered(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		d, err := dash.Parse([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(d.Steered("https://cp.example/steering/dash?t=tok&p=eu-1", pathways)), want); d != "" {
			t.Error(d)
		}
	}
	const locations = `
  <BaseURL serviceLocation="eu-1">https://eu.example/t/tok/media/a/b/</BaseURL>
  <BaseURL serviceLocation="us-1">https://us.example/t/tok/media/a/b/</BaseURL>
  <ContentSteering defaultServiceLocation="eu-1" queryBeforeStart="true">https://cp.example/steering/dash?t=tok&amp;p=eu-1</ContentSteering>`
	own, err := dash.Manifest(time.Minute, []media.Rendition{{Name: "flac", File: "flac.mp4", Codec: "fLaC"}})
	if err != nil {
		t.Fatal(err)
	}
	head, tail, _ := strings.Cut(string(own), `minBufferTime="PT4S">`)
	f(string(own), head+`minBufferTime="PT4S">`+locations+tail)
	// Of others: a prefix, locations and steering of their own.
	f(`<MPD a="b>c"><BaseURL>https://old.example/</BaseURL><!-- <BaseURL> --><ContentSteering>https://old</ContentSteering><Period><BaseURL>x/</BaseURL><SegmentTemplate media="$RepresentationID$/$Number%05d$.m4s"/></Period></MPD>`,
		`<MPD a="b>c">`+locations+`<!-- <BaseURL> --><Period><BaseURL>x/</BaseURL><SegmentTemplate media="$RepresentationID$/$Number%05d$.m4s"/></Period></MPD>`)
	f(`<m:MPD xmlns:m="x"><m:Period/></m:MPD>`, `<m:MPD xmlns:m="x">`+strings.NewReplacer("<B", "<m:B", "</B", "</m:B", "<C", "<m:C", "</C", "</m:C").Replace(locations)+`<m:Period/></m:MPD>`)
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{"", "<MPD/>", "<MPD>", "<Period></Period>", "<MPD></Period>", "<!DOCTYPE x><MPD></MPD>", "<MPD></MPD><MPD></MPD>", "hello",
		"<MPD><Period><BaseURL>https://elsewhere.example/</BaseURL></Period></MPD>", "<MPD><Period><BaseURL>../x</BaseURL></Period></MPD>",
		"<MPD><Period><BaseURL>/x</BaseURL></Period></MPD>", `<MPD><Period><SegmentURL media="//elsewhere.example/x"/></Period></MPD>`} {
		if _, err := dash.Parse([]byte(s)); !errors.Is(err, media.ErrInvalid) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// FuzzSteered: what is accepted prints as well-formed XML that is accepted again and says the same.
func FuzzSteered(f *testing.F) {
	f.Add(`<?xml version="1.0"?><MPD x="y"><BaseURL>b/</BaseURL><Period><AdaptationSet/><!-- c --></Period></MPD>`)
	f.Add(`<m:MPD xmlns:m="x"><m:Period/></m:MPD>`)
	f.Fuzz(func(t *testing.T, in string) {
		d, err := dash.Parse([]byte(in))
		if err != nil {
			return
		}
		out := d.Steered("https://s/?a=b&c", pathways)
		back, err := dash.Parse(out)
		if err != nil {
			t.Fatalf("%v of %q", err, out)
		}
		again := string(back.Steered("https://s/?a=b&c", pathways))
		if strings.Count(again, "serviceLocation=\"eu-1\"") < 1 || strings.Count(again, "https://s/?a=b&amp;c") != strings.Count(string(out), "https://s/?a=b&amp;c") {
			t.Fatalf("%q became %q", out, again)
		}
		if err := xml.Unmarshal(out, new(struct{ XMLName xml.Name })); err != nil && xml.Unmarshal([]byte(in), new(struct{ XMLName xml.Name })) == nil {
			t.Fatal(err)
		}
	})
}
