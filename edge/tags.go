package edge

import (
	"encoding/binary"
	"strings"

	"segue/media"
)

// tags are the surrogate keys of a Meta as hashes of eight bytes each, in one string: it costs no allocation to read.
type tags string

// maxTags bounds a Meta's tags. One with more has the tag anyTag, which a purge of any tag purges.
const (
	maxTags = 128
	anyTag  = 1
)

// each calls f with every hash.
func (t tags) each(f func(hash uint64)) {
	for ; len(t) >= 8; t = t[8:] {
		f(uint64(t[0]) | uint64(t[1])<<8 | uint64(t[2])<<16 | uint64(t[3])<<24 | uint64(t[4])<<32 | uint64(t[5])<<40 | uint64(t[6])<<48 | uint64(t[7])<<56)
	}
}

// makeTags finds the tags of a Meta.
func makeTags(m *Meta) tags {
	var b []byte
	eachTag(m, func(tag string) {
		switch {
		case len(b) < maxTags*8:
			b = binary.LittleEndian.AppendUint64(b, tagHash(tag))
		case len(b) == maxTags*8:
			b = binary.LittleEndian.AppendUint64(b, anyTag)
		}
	})
	return tags(b)
}

// eachTag calls add with the tags of a Meta: of an HTTP origin's response those in Surrogate-Key (separated by spaces)
// and Cache-Tag (by commas); of a store's object those that its place in the layout says.
func eachTag(m *Meta, add func(tag string)) {
	if m.Route.http() == nil {
		layoutTags(m.Key, add)
		return
	}
	for name, value := range m.Fields.All() {
		switch name {
		case "Surrogate-Key":
			for tag := range strings.FieldsSeq(value) {
				add(tag)
			}
		case "Cache-Tag":
			for tag := range strings.SplitSeq(value, ",") {
				if tag = strings.Trim(tag, " \t"); tag != "" {
					add(tag)
				}
			}
		}
	}
}

// layoutTags are track:<id>, version:<v> of media/<id>/<v>/… and album:<id>, version:<v> of art/<id>/<v>/….
func layoutTags(key string, add func(tag string)) {
	kind, rest, _ := strings.Cut(key, "/")
	id, rest, _ := strings.Cut(rest, "/")
	version, _, below := strings.Cut(rest, "/")
	if name := map[string]string{"media": "track:", "art": "album:"}[kind]; name != "" && below && media.ValidID(id) && media.ValidVersion(version) {
		add(name + id)
		add("version:" + version)
	}
}

// tagHash and keyHash name a tag and the key of a route among the marks of purges: odd and even numbers, the same in
// every process.
func tagHash(tag string) uint64 { return max(anyTag+2, fnv1a(fnvBegin, tag)|1) }

func keyHash(prefix, key string) uint64 { return fnv1a(fnv1a(fnvBegin, prefix), key) &^ 1 }

const fnvBegin = 14695981039346656037

// fnv1a is FNV-1a in 64 bits, without the allocation of hash/fnv.
func fnv1a(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
