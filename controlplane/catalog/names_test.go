package catalog_test

import (
	"testing"

	"segue/controlplane/catalog"

	"github.com/google/go-cmp/cmp"
)

func TestSplitArtists(t *testing.T) {
	f := func(tag string, want ...string) {
		t.Helper()
		if d := cmp.Diff(catalog.SplitArtists(tag), want); d != "" {
			t.Errorf("%q: %s", tag, d)
		}
	}
	f("Björk", "main:Björk")
	f("A feat. B", "main:A", "featured: feat. :B")
	f("A (feat. B)", "main:A", "featured: feat. :B")
	f("A [ft. B & C]", "main:A", "featured: ft. :B & C")
	f("A FEATURING B; C", "main:A", "featured: FEATURING :B", "featured:; :C")
	f("A; B;C", "main:A", "main:; :B", "main:; :C")
	f("A; a; ", "main:A")
	// Names that hold what stands between names elsewhere.
	f("AC/DC", "main:AC/DC")
	f("Earth, Wind & Fire", "main:Earth, Wind & Fire")
	f("Tyler, The Creator", "main:Tyler, The Creator")
	f("Little Feat", "main:Little Feat")
	f("Defeat. Everyone", "main:Defeat. Everyone")
	f("AT&amp;T; B", "main:AT&amp;T", "main:; :B")
	f("feat. B", "main:feat. B")
	f(";", "main:;")
	f("東京事変 feat. 椎名林檎", "main:東京事変", "featured: feat. :椎名林檎")
}

func TestSortKey(t *testing.T) {
	f := func(name, want string) {
		t.Helper()
		if got := catalog.SortKey(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	f("Café del Sur", "cafe del sur")
	f("ÉLÉGIE", "elegie")
	f("...Baby", "baby")
	f("“Heroes”", "heroes”")
	f("Straße", "strasse")
	f("🔥", "🔥")
	f("夜曲", "夜曲")
	f("!!!", "!!!")
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"A feat. B", "A; B", "&amp;;", "(feat. )", "\xff; x", "́", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if list := catalog.SplitArtists(s); len(list) == 0 {
			t.Errorf("%q has no artist", s)
		}
		if s != "" && catalog.SortKey(s) == "" {
			t.Errorf("%q has no sort key", s)
		}
	})
}
