package media

import (
	"fmt"
	"strconv"
	"strings"
)

// TrackID, AlbumID and ArtistID are ULIDs: 26 characters of Crockford's base 32, upper case, first one 0..7.
type (
	TrackID  string
	AlbumID  string
	ArtistID string
)

// Version names the bytes of one packaging of a track, or of one picture: 26 lower-case base 32 characters
// (RFC 4648 alphabet, no padding) of a SHA-256 over the source's bytes and the encoder's settings.
type Version string

// Key names one object in the origin: a slash-separated path with no leading slash, at most MaxKeyLen bytes.
// A Key that came from ParseKey is safe to append to a directory: it has no empty, "." or ".." part,
// no backslash and no control character.
type Key string

// MaxKeyLen is the longest key accepted, in bytes: S3's limit.
const MaxKeyLen = 1024

// ParseKey checks a foreign string. The error wraps ErrInvalid.
func ParseKey(s string) (Key, error) {
	if s == "" || len(s) > MaxKeyLen {
		return "", fmt.Errorf("object key of %d bytes, want 1 to %d: %w", len(s), MaxKeyLen, ErrInvalid)
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part == "." || part == ".." {
			return "", fmt.Errorf("object key %q has an empty or relative part: %w", s, ErrInvalid)
		}
	}
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == 0x7f || c == '\\' {
			return "", fmt.Errorf("object key %q has the forbidden byte 0x%02x: %w", s, c, ErrInvalid)
		}
	}
	return Key(s), nil
}

// TrackPrefix is the folder of one version of a track, with its trailing slash: what an access token grants.
func TrackPrefix(t TrackID, v Version) string { return "media/" + string(t) + "/" + string(v) + "/" }

// TrackKey is a file in TrackPrefix.
func TrackKey(t TrackID, v Version, file string) Key { return Key(TrackPrefix(t, v) + file) }

// ArtPrefix is the folder of one version of an album's picture, with its trailing slash.
func ArtPrefix(a AlbumID, v Version) string { return "art/" + string(a) + "/" + string(v) + "/" }

// ArtSizes are the widths and heights, in pixels, in which every picture is stored.
var ArtSizes = []int{64, 300, 640}

// ArtKey is the JPEG of one of ArtSizes.
func ArtKey(a AlbumID, v Version, size int) Key {
	return Key(ArtPrefix(a, v) + strconv.Itoa(size) + ".jpg")
}

// Protected reports whether an edge serves the object only under a token. Pictures are public, audio is not.
func (k Key) Protected() bool { return !strings.HasPrefix(string(k), "art/") }

// ValidID reports whether s has the form of a ULID.
func ValidID(s string) bool {
	if len(s) != 26 || s[0] < '0' || s[0] > '7' {
		return false
	}
	for i := range len(s) {
		if strings.IndexByte("0123456789ABCDEFGHJKMNPQRSTVWXYZ", s[i]) < 0 {
			return false
		}
	}
	return true
}

// ValidVersion reports whether s has the form of a Version.
func ValidVersion(s string) bool {
	if len(s) != 26 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}
