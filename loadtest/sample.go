package loadtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"segue/media"
)

// reference is what one sampled reply had in it. It is compared with the file after the run: to fetch the files before would
// warm the caches that are measured.
type reference struct {
	key   media.Key
	grant string // folder on the edge, with the token
	span  media.ByteSpan
	sum   [sha256.Size]byte
}

const (
	maxSamples = 100_000
	maxFiles   = 50 // that are fetched for comparison
)

// compareSamples fetches the files that were sampled, checks each against the sha256 that its packager wrote down, and the
// samples against the file.
func (e *engine) compareSamples(ctx context.Context, out *Result) {
	e.rec.mu.Lock()
	kept := e.rec.kept
	e.rec.mu.Unlock()
	byFile := map[media.Key][]reference{}
	for _, s := range kept {
		byFile[s.key] = append(byFile[s.key], s)
	}
	files := make([]media.Key, 0, len(byFile))
	for k := range byFile {
		files = append(files, k)
	}
	slices.Sort(files)
	slices.SortStableFunc(files, func(a, b media.Key) int { return len(byFile[b]) - len(byFile[a]) })
	wrong := int64(0)
	for i, key := range files {
		of := byFile[key]
		e.progress(Progress{Phase: "compare", Done: i, Of: min(len(files), maxFiles)})
		var body []byte
		if i < maxFiles {
			body = e.file(ctx, key, of)
		}
		if body == nil {
			out.Counts.Unchecked += int64(len(of))
			continue
		}
		for _, s := range of {
			out.Counts.Sampled++
			end := s.span.Offset + s.span.Size
			if end > int64(len(body)) || sha256.Sum256(body[s.span.Offset:end]) != s.sum {
				wrong++
			}
		}
	}
	if wrong > 0 {
		out.Counts.Mismatched = wrong
		out.Errors = append(out.Errors, ErrorCount{opSegment, string(kindWrong), wrong})
	}
}

// file is the whole of a file that is what its packager made; nil: it cannot be had with the tokens that were seen.
func (e *engine) file(ctx context.Context, key media.Key, of []reference) []byte {
	_, name, _ := cutLast(string(key), "/")
	for i, s := range of {
		if i > 0 && s.grant == of[i-1].grant {
			continue
		}
		at, path, err := split(s.grant)
		if err != nil {
			continue
		}
		w := &wire{net: &e.net, from: e.address(i), at: at}
		defer w.close()
		doc := exchange{method: http.MethodGet, path: path + media.TrackFile, keep: true, most: media.MaxTrackFile}
		var t media.Track
		if w.do(ctx, &doc) != nil || doc.Status != http.StatusOK || json.Unmarshal(doc.Body, &t) != nil {
			continue
		}
		x := exchange{method: http.MethodGet, path: path + name, keep: true, most: 256 << 20}
		if w.do(ctx, &x) != nil || x.Status != http.StatusOK {
			continue
		}
		sum := sha256.Sum256(x.Body)
		for _, r := range t.Renditions {
			if r.File == name && strings.EqualFold(r.SHA256, hex.EncodeToString(sum[:])) {
				return x.Body
			}
		}
		// What is not the packager's file is wrong as a whole: no sample of it may count as right.
		return []byte{}
	}
	return nil
}
