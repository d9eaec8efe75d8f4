package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"segue/controlplane/api"
	"segue/media"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// fold takes case and accents away, so that Björk and BJORK are one.
func fold(s string) string {
	for i := range len(s) {
		if s[i] >= 0x80 {
			d := norm.NFKD.String(s)
			d = strings.Map(func(r rune) rune {
				if unicode.Is(unicode.Mn, r) {
					return -1
				}
				return r
			}, d)
			return norm.NFC.String(cases.Fold().String(d))
		}
	}
	return strings.ToLower(s)
}

// maxSortRunes keeps index rows below what PostgreSQL takes (2704 bytes).
const maxSortRunes = 100

// sortKey is what a name is ordered by; it is empty for no name. Opening quotes and dots do not count.
func sortKey(name string) string {
	key := strings.TrimSpace(fold(name))
	if bare := strings.TrimLeftFunc(key, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) }); bare != "" {
		key = bare
	}
	if key == "" {
		key = name
	}
	if len(key) > maxSortRunes {
		if r := []rune(key); len(r) > maxSortRunes {
			key = string(r[:maxSortRunes])
		}
	}
	return key
}

// genreID makes Hip-Hop, hip hop and HIP HOP one: letters and digits, folded, with one dash between words.
func genreID(name string) string {
	id := strings.Join(strings.FieldsFunc(fold(name), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) }), "-")
	if id == "" && name != "" {
		id = bounded(name)
	}
	if r := []rune(id); len(r) > maxSortRunes {
		id = string(r[:maxSortRunes])
	}
	return id
}

// bounded shortens a key that would not fit an index, so that different ones stay different.
func bounded(key string) string {
	if len(key) <= 1000 {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return strings.ToValidUTF8(key[:500], "") + hex.EncodeToString(sum[:])
}

// credit is one artist of a track or album by name; join stands before it.
type credit struct {
	name, role, join string
}

// featuring finds the guests: "A feat. B", "A (ft. B)", "A featuring B". A name alone can hold the rest of what people
// write between artists (AC/DC; Earth, Wind & Fire; Tyler, The Creator; Little Feat), so nothing else is cut at.
var (
	featuring = regexp.MustCompile(`(?i)^(.*\S)(\s*[\s(\[](?:feat\.|ft\.|featuring)\s+)([^\s)\]].*)$`)
	entity    = regexp.MustCompile(`&#?\w+$`)
)

// splitArtists reads the artist tag of a file: values separated by semicolons, as taggers and ffmpeg join several ones,
// and guests. There is always at least one artist; the first one's join is empty.
func splitArtists(tag string) []credit {
	var out []credit
	main, guests, join := tag, "", ""
	if m := featuring.FindStringSubmatch(tag); m != nil {
		main, guests, join = m[1], m[3], m[2]
		if strings.ContainsAny(join, "([") {
			join, guests = " "+strings.TrimLeft(strings.TrimSpace(join), "([ ")+" ", strings.TrimRight(guests, ")] ")
		}
	}
	add := func(list, role, before string) {
		for _, name := range semicolons(list) {
			if name == "" || slices.ContainsFunc(out, func(c credit) bool { return strings.EqualFold(c.name, name) }) {
				continue
			}
			if len(out) == 0 {
				role, before = api.RoleMain, ""
			}
			out = append(out, credit{name, role, before})
			before = "; "
		}
	}
	add(main, api.RoleMain, "; ")
	add(guests, api.RoleFeatured, join)
	if len(out) == 0 {
		return []credit{{tag, api.RoleMain, ""}}
	}
	return out
}

// semicolons cuts at semicolons, but not at those of an entity such as &amp; that some tagger left.
func semicolons(s string) []string {
	var out []string
	begin := 0
	for i := range len(s) {
		if s[i] == ';' && !entity.MatchString(s[begin:i]) {
			out = append(out, strings.TrimSpace(s[begin:i]))
			begin = i + 1
		}
	}
	return append(out, strings.TrimSpace(s[begin:]))
}

// checkDate takes 1999, 1999-05, 1999-05-31 and nothing.
func checkDate(s string) error {
	layout := map[int]string{4: "2006", 7: "2006-01", 10: time.DateOnly}[len(s)]
	if s == "" {
		return nil
	}
	if _, err := time.Parse(layout, s); layout == "" || err != nil {
		return fmt.Errorf("date %q: want YYYY, YYYY-MM or YYYY-MM-DD: %w", s, media.ErrInvalid)
	}
	return nil
}

var (
	isrcForm    = regexp.MustCompile(`^[A-Z]{2}[A-Z0-9]{3}[0-9]{7}$`)
	upcForm     = regexp.MustCompile(`^[0-9]{8,14}$`)
	countryForm = regexp.MustCompile(`^[A-Z]{2}$`)
)

// cleanISRC takes an ISRC (ISO 3901) with or without its dashes.
func cleanISRC(s string) (string, error) {
	c := strings.ToUpper(strings.ReplaceAll(strings.TrimSpace(s), "-", ""))
	if c != "" && !isrcForm.MatchString(c) {
		return "", fmt.Errorf("isrc %q: want CCXXXYYNNNNN: %w", s, media.ErrInvalid)
	}
	return c, nil
}

func cleanUPC(s string) (string, error) {
	c := strings.ReplaceAll(strings.TrimSpace(s), " ", "")
	if c != "" && !upcForm.MatchString(c) {
		return "", fmt.Errorf("upc %q: want 8 to 14 digits: %w", s, media.ErrInvalid)
	}
	return c, nil
}

// cleanCountries makes the column's form of an allow list.
func cleanCountries(list []string) (string, error) {
	var out []string
	for _, c := range list {
		if c = strings.ToUpper(c); !countryForm.MatchString(c) {
			return "", fmt.Errorf("available_in %q: want ISO 3166-1 alpha-2: %w", c, media.ErrInvalid)
		}
		out = append(out, c)
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), " "), nil
}

const (
	maxNameRunes = 500 // as the packager's
	maxGenres    = 20
	maxCredits   = 200 // of one track: an orchestra by name
)

// cleanName refuses what cannot be a name of a thing in a list.
func cleanName(what, s string) (string, error) {
	c := strings.Join(strings.FieldsFunc(norm.NFC.String(s), func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	if c == "" || strings.ContainsRune(c, 0xFFFD) || len(c) > maxNameRunes && len([]rune(c)) > maxNameRunes {
		return "", fmt.Errorf("%s: want a name of 1 to %d characters: %w", what, maxNameRunes, media.ErrInvalid)
	}
	return c, nil
}

// cleanGenres drops repeats, also of other spelling.
func cleanGenres(list []string) ([]string, error) {
	out := []string{}
	if len(list) > maxGenres {
		return out, fmt.Errorf("genres: want at most %d: %w", maxGenres, media.ErrInvalid)
	}
	seen := map[string]bool{}
	for _, g := range list {
		g, err := cleanName("genres", g)
		if err != nil {
			return out, err
		}
		if id := genreID(g); !seen[id] {
			seen[id] = true
			out = append(out, g)
		}
	}
	return out, nil
}
