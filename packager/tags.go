package packager

import (
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"segue/media"

	"golang.org/x/text/unicode/norm"
)

const maxTagRunes = 500

var (
	leadingNumber = regexp.MustCompile(`^\(?(\d{1,3})\)?[\s._-]+(.+)$`)
	wholeDate     = regexp.MustCompile(`^(\d{4})(?:[-./](\d{2}))?(?:[-./](\d{2}))?`)
)

// tags cleans what ffprobe found. What is missing comes from "Artist/Album/07 Title.ext", as people name files.
func (s source) tags(path string) media.Tags {
	get := func(names ...string) string {
		for _, n := range names {
			if v := clean(s.tag[n]); v != "" {
				return v
			}
		}
		return ""
	}
	base := clean(strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)))
	number := firstNumber(get("track", "tracknumber", "trck"))
	if m := leadingNumber.FindStringSubmatch(base); m != nil {
		base = m[2]
		if number == 0 {
			number, _ = strconv.Atoi(m[1])
		}
	}
	t := media.Tags{
		Title:       or(get("title"), strings.ReplaceAll(base, "_", " "), "Untitled"),
		Artist:      get("artist", "performer"),
		AlbumArtist: s.albumArtist(),
		Album:       or(get("album"), folder(filepath.Dir(path)), "Unknown Album"),
		Composer:    get("composer"),
		TrackNumber: number,
		DiscNumber:  firstNumber(get("disc", "discnumber", "disk")),
		ISRC:        get("isrc", "tsrc"),
	}
	t.Artist = or(t.Artist, t.AlbumArtist, folder(filepath.Dir(filepath.Dir(path))), "Unknown Artist")
	t.AlbumArtist = or(t.AlbumArtist, t.Artist)
	for _, g := range strings.FieldsFunc(get("genre"), func(r rune) bool { return r == ';' || r == '/' || r == '|' }) {
		if g = strings.TrimSpace(g); g != "" {
			t.Genres = append(t.Genres, g)
		}
	}
	if m := wholeDate.FindStringSubmatch(get("date", "year", "originaldate", "tdrc")); m != nil {
		t.Date = m[1]
		for _, part := range m[2:] {
			if part != "" {
				t.Date += "-" + part
			}
		}
	}
	return t
}

// albumArtist is the tag of that name, under any of the names that formats give it.
func (s source) albumArtist() string {
	return or(clean(s.tag["album_artist"]), clean(s.tag["albumartist"]), clean(s.tag["album artist"]))
}

func or(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// folder is a folder's name, or nothing for the root.
func folder(dir string) string {
	if name := filepath.Base(dir); name != "." && name != "/" {
		return clean(name)
	}
	return ""
}

// clean makes a foreign string printable: UTF-8 in NFC, no control characters, one space between words, bounded.
func clean(s string) string {
	s = norm.NFC.String(strings.ToValidUTF8(s, "\uFFFD"))
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	if r := []rune(s); len(r) > maxTagRunes {
		s = strings.TrimSpace(string(r[:maxTagRunes]))
	}
	return s
}

// firstNumber reads "7", "07/12" and the like; 0 when there is none from 1 to 9999.
func firstNumber(s string) int {
	s, _, _ = strings.Cut(s, "/")
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil || n < 1 || n > 9999 {
		return 0
	}
	return n
}
