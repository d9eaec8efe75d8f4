package cat_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"segue/media"
	"segue/media/cat"

	"github.com/google/go-cmp/cmp"
)

var (
	now   = time.Unix(1_800_000_000, 0).UTC()
	priv  = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	keys  = []cat.Key{{ID: "h", Alg: cat.HS256, Secret: bytes.Repeat([]byte{1}, 32)}, {ID: "e", Alg: cat.EdDSA, Public: priv.Public().(ed25519.PublicKey), Private: priv}}
	grant = cat.Claims{Issuer: "segue", ID: "c1", NotBefore: now.Add(-time.Minute), Expires: now.Add(time.Hour),
		PathPrefix: "/media/T/v/", PlayID: "p1", Plan: "free", Renditions: []string{"aac_96"}}
)

func TestMintVerify(t *testing.T) {
	for _, k := range keys {
		token, err := cat.Mint(k, grant)
		if err != nil {
			t.Fatal(err)
		}
		got, err := cat.Verify(keys, "segue", now, token)
		if d := cmp.Diff(got, grant); d != "" || err != nil {
			t.Errorf("%s: %v %s", k.Alg, err, d)
		}
		fails := func(what string, want error, keys []cat.Key, iss string, at time.Time, token string) {
			t.Helper()
			if _, err := cat.Verify(keys, iss, at, token); !errors.Is(err, want) {
				t.Errorf("%s, %s: %v, want %v", k.Alg, what, err, want)
			}
		}
		fails("expired", media.ErrDenied, keys, "segue", now.Add(time.Hour+cat.Leeway), token)
		fails("early", media.ErrDenied, keys, "segue", now.Add(-time.Minute-cat.Leeway-time.Second), token)
		fails("other issuer", media.ErrNoAccess, keys, "x", now, token)
		fails("no key", media.ErrNoAccess, nil, "segue", now, token)
		for i := range token { // every bit counts
			b := []byte(token)
			if b[i] == 'A' {
				b[i] = 'B'
			} else {
				b[i] = 'A'
			}
			if got, err := cat.Verify(keys, "segue", now, string(b)); err == nil && !cmp.Equal(got, grant) {
				t.Fatalf("changed at %d: accepted as %+v", i, got)
			}
		}
	}
	// The secret of one algorithm must not verify the other: algorithm confusion.
	confused := []cat.Key{{ID: "e", Alg: cat.HS256, Secret: keys[1].Public}}
	token, _ := cat.Mint(confused[0], grant)
	if _, err := cat.Verify(keys, "segue", now, token); !errors.Is(err, media.ErrNoAccess) {
		t.Errorf("algorithm confusion: %v", err)
	}
}

func TestAllows(t *testing.T) {
	f := func(key media.Key, want bool) {
		t.Helper()
		if got := grant.Allows(key); got != want {
			t.Errorf("%s: %t", key, got)
		}
	}
	f("media/T/v/aac_96.mp4", true)
	f("media/T/v/aac_96.m3u8", true)
	f("media/T/v/master_160.m3u8", true)
	f("media/T/v/aac_256.mp4", false)
	f("media/T/w/aac_96.mp4", false)
	f("media/T/vx/aac_96.mp4", false)
}

func FuzzVerify(f *testing.F) {
	for _, k := range keys {
		token, _ := cat.Mint(k, grant)
		f.Add(token)
	}
	f.Add("2D3RhEOhAQWgQ6EBAUA")
	f.Fuzz(func(t *testing.T, token string) {
		if c, err := cat.Verify(keys, "segue", now, token); err == nil && !cmp.Equal(c, grant) {
			t.Errorf("forged: %+v", c)
		}
	})
}
