// Package storetest checks every sentence of origin.Store's documentation against an implementation.
package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"segue/media"
	"segue/origin"

	"github.com/google/go-cmp/cmp"
)

// Run runs the suite; open returns an empty store.
func Run(t *testing.T, open func(t *testing.T) origin.Store) {
	ctx := context.Background()
	put := func(t *testing.T, s origin.Store, key media.Key, body []byte) media.Object {
		t.Helper()
		o, err := s.Put(ctx, media.Object{Key: key, Size: int64(len(body)), ContentType: "audio/mp4"}, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	read := func(s origin.Store, key media.Key, rng media.ByteRange, ifMatch string) (string, error) {
		r, _, err := s.Get(ctx, key, rng, ifMatch)
		if err != nil {
			return "", err
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		return string(b), err
	}

	t.Run("PutGetStat", func(t *testing.T) {
		s := open(t)
		body := []byte("0123456789")
		o := put(t, s, "media/a/b.mp4", body)
		sum := sha256.Sum256(body)
		if o.Size != 10 || o.SHA256 != hex.EncodeToString(sum[:]) || len(o.ETag) < 3 || o.ETag[0] != '"' || o.ModTime.IsZero() {
			t.Errorf("Put returned %+v", o)
		}
		st, err := s.Stat(ctx, "media/a/b.mp4")
		if err != nil || st.ETag != o.ETag || st.Size != 10 || st.ContentType != "audio/mp4" {
			t.Errorf("Stat: %+v, %v", st, err)
		}
		for _, c := range []struct {
			rng  media.ByteRange
			want string
		}{
			{media.WholeObject, "0123456789"}, {media.ByteRange{Offset: 3, Length: 4}, "3456"}, {media.ByteRange{Offset: 7, Length: -1}, "789"},
			{media.ByteRange{Offset: 9, Length: 1}, "9"}, {media.ByteRange{Offset: 8, Length: 100}, "89"}, {media.ByteRange{Offset: 2}, ""},
		} {
			if got, err := read(s, "media/a/b.mp4", c.rng, o.ETag); got != c.want || err != nil {
				t.Errorf("Get %v: %q, %v, want %q", c.rng, got, err, c.want)
			}
		}
	})
	t.Run("Errors", func(t *testing.T) {
		s := open(t)
		o := put(t, s, "media/a.mp4", []byte("abc"))
		fails := func(want, got error) {
			t.Helper()
			if !errors.Is(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		}
		_, err := s.Stat(ctx, "media/none.mp4")
		fails(media.ErrNotFound, err)
		_, err = s.Stat(ctx, "media")
		fails(media.ErrNotFound, err)
		_, err = s.Stat(ctx, "media/a.mp4/below")
		fails(media.ErrNotFound, err)
		_, err = read(s, "media/none.mp4", media.WholeObject, "")
		fails(media.ErrNotFound, err)
		_, err = read(s, "media/a.mp4", media.WholeObject, `"other"`)
		fails(media.ErrChanged, err)
		_, err = read(s, "media/a.mp4", media.ByteRange{Offset: 3, Length: 1}, "")
		fails(media.ErrRange, err)
		for _, bad := range []media.Object{{Size: 3, SHA256: strings.Repeat("0", 64)}, {Size: 4}, {Size: -1, SHA256: strings.Repeat("0", 64)}} {
			bad.Key = "media/bad.mp4"
			_, err = s.Put(ctx, bad, strings.NewReader("abc"))
			if err == nil {
				t.Errorf("Put of %+v with wrong bytes worked", bad)
			}
			_, err = s.Stat(ctx, "media/bad.mp4")
			fails(media.ErrNotFound, err)
		}
		if got, err := read(s, "media/a.mp4", media.WholeObject, o.ETag); got != "abc" || err != nil {
			t.Errorf("an unrelated object suffered: %q, %v", got, err)
		}
	})
	t.Run("Replace", func(t *testing.T) {
		s := open(t)
		a := put(t, s, "k", []byte("first"))
		b := put(t, s, "k", []byte("other"))
		if a.ETag == b.ETag {
			t.Error("another body, same ETag")
		}
		if got, err := read(s, "k", media.WholeObject, b.ETag); got != "other" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("Empty", func(t *testing.T) {
		s := open(t)
		put(t, s, "empty", nil)
		for _, rng := range []media.ByteRange{media.WholeObject, {}, {Offset: 0, Length: 5}} {
			if got, err := read(s, "empty", rng, ""); got != "" || err != nil {
				t.Errorf("Get %v of nothing: %q, %v", rng, got, err)
			}
		}
	})
	t.Run("UnknownSize", func(t *testing.T) {
		s := open(t)
		o, err := s.Put(ctx, media.Object{Key: "stream", Size: -1}, io.MultiReader(strings.NewReader("ab"), strings.NewReader("cd")))
		if err != nil || o.Size != 4 {
			t.Errorf("%+v, %v", o, err)
		}
	})
	t.Run("LargeInParts", func(t *testing.T) {
		s := open(t)
		body := make([]byte, 33<<20+1)
		rand.Read(body)
		o := put(t, s, "large", body)
		sum := sha256.Sum256(body)
		if o.SHA256 != hex.EncodeToString(sum[:]) {
			t.Error("digest of a large object is wrong")
		}
		got, err := read(s, "large", media.ByteRange{Offset: 16<<20 - 5, Length: 10}, o.ETag)
		if err != nil || got != string(body[16<<20-5:16<<20+5]) {
			t.Errorf("range across parts: %x, %v", got, err)
		}
	})
	t.Run("List", func(t *testing.T) {
		s := open(t)
		for _, k := range []media.Key{"m/b/1", "m/a.x", "m/a/2", "n"} {
			put(t, s, k, []byte("x"))
		}
		list := func(prefix string, want ...media.Key) {
			t.Helper()
			var got []media.Key
			for o, err := range s.List(ctx, prefix) {
				if err != nil {
					t.Fatal(err)
				}
				if o.Size != 1 || o.ETag == "" {
					t.Errorf("listed %+v", o)
				}
				got = append(got, o.Key)
			}
			if d := cmp.Diff(got, want); d != "" {
				t.Errorf("List(%q): %s", prefix, d)
			}
		}
		list("", "m/a.x", "m/a/2", "m/b/1", "n")
		list("m/a", "m/a.x", "m/a/2")
		list("m/a/", "m/a/2")
		list("none/")
		list("../")
		for range s.List(ctx, "") {
			break // a caller may stop early
		}
		for range 2 {
			if err := s.Delete(ctx, "m/a/2"); err != nil {
				t.Errorf("Delete: %v", err)
			}
		}
		list("m/a", "m/a.x")
	})
	t.Run("Concurrent", func(t *testing.T) {
		s := open(t)
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				body := bytes.Repeat([]byte{byte('a' + i%4)}, 1000)
				if _, err := s.Put(ctx, media.Object{Key: "same", Size: 1000}, bytes.NewReader(body)); err != nil {
					t.Error(err)
				}
				got, err := read(s, "same", media.WholeObject, "")
				if err != nil || strings.Trim(got, got[:1]) != "" {
					t.Errorf("mixed bytes: %.20q, %v", got, err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("Canceled", func(t *testing.T) {
		s := open(t)
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := s.Put(ctx, media.Object{Key: "c", Size: 1}, strings.NewReader("x")); !errors.Is(err, context.Canceled) {
			t.Errorf("Put: %v", err)
		}
		if _, _, err := s.Get(ctx, "c", media.WholeObject, ""); !errors.Is(err, context.Canceled) {
			t.Errorf("Get: %v", err)
		}
	})
}
