package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/store"
	"segue/internal/testenv"
	"segue/media"

	"github.com/golang-jwt/jwt/v5"
	"github.com/oklog/ulid/v2"
)

// TestStrictCountry: what a listener whose country nobody knows gets of a track that is limited to countries.
func TestStrictCountry(t *testing.T) {
	f := func(name string, want string, flags ...string) {
		t.Run(name, func(t *testing.T) {
			dir, track := t.TempDir(), ulid.Make().String()
			db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "segue.db"))
			if err != nil {
				t.Fatal(err)
			}
			for _, q := range []string{
				`INSERT INTO artists (id, name, name_key, sort_key) VALUES ('01ARZ3NDEKTSV4RRFFQ69G5FA1', 'R', 'r', 'r')`,
				`INSERT INTO albums (id, title, sort_key, artist_id, date, art_version, available_in, created_at) VALUES ('01ARZ3NDEKTSV4RRFFQ69G5FA2', 'A', 'a', '01ARZ3NDEKTSV4RRFFQ69G5FA1', '', '', 'JP', 1)`,
				`INSERT INTO tracks (id, album_id, artist_id, title, sort_key, version, duration_ms, disc_number, track_number, date, genres, renditions, loudness, created_at, updated_at)
					VALUES ('` + track + `', '01ARZ3NDEKTSV4RRFFQ69G5FA2', '01ARZ3NDEKTSV4RRFFQ69G5FA1', 'T', 't', 'aaaaaaaaaaaaaaaaaaaaaaaaaa', 1000, 1, 1, '', '[]',
					'[{"name":"aac_96","file":"aac_96.mp4","codec":"mp4a.40.2","bitrate_bps":96000}]', '{}', 1, 1)`,
			} {
				if _, err := db.ExecContext(t.Context(), q); err != nil {
					t.Fatal(err)
				}
			}
			db.Close()
			for file, text := range map[string]string{"admin": "sga_the-operator-of-this-test", "plays": "0123456789abcdef0123456789abcdef"} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			listen := testenv.Addr(t)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() {
				done <- run(ctx, append([]string{"--listen", listen, "--data", dir, "--origin", filepath.Join(dir, "origin"), "--admin-token-file", filepath.Join(dir, "admin"), "--plays-key-file", filepath.Join(dir, "plays"),
					"--drain", "0s", "--log-level", "error"}, flags...), io.Discard, io.Discard)
			}()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			client := func(token string) *api.Client {
				c, err := api.NewClient("http://"+listen, func() (string, error) { return token, nil })
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
			for end := time.Now().Add(20 * time.Second); client("").Ready(t.Context()) != nil; time.Sleep(20 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("it does not start")
				}
			}
			admin := client("sga_the-operator-of-this-test")
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			_, _, err = admin.PutRegion(t.Context(), "eu", api.NewRegion{Latitude: 52, Longitude: 5}, "", api.PutRegionOptions{IfNoneMatch: "*"})
			must(err)
			token, err := admin.NewJoinToken(t.Context(), api.NewJoinToken{Region: "eu"})
			must(err)
			public, private, err := ed25519.GenerateKey(nil)
			must(err)
			joined, err := client("").Join(t.Context(), api.Join{Token: token.Token, Name: "eu-1", URL: "http://eu.example", PublicKey: public})
			must(err)
			signed, err := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.RegisteredClaims{Issuer: joined.EdgeID, Subject: joined.EdgeID, Audience: jwt.ClaimStrings{"segue-fleet"},
				IssuedAt: jwt.NewNumericDate(time.Now()), ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Minute))}).SignedString(private)
			must(err)
			_, err = client("").SignUp(t.Context(), api.NewUser{Email: "ada@example.org", Password: "correct horse"})
			must(err)
			s, err := client("").SignIn(t.Context(), api.NewSession{Email: "ada@example.org", Password: "correct horse", Device: api.Device{Type: "cli", Name: "test"}})
			must(err)
			_, err = client(signed).Heartbeat(t.Context(), api.Heartbeat{URL: "http://eu.example", At: time.Now()})
			must(err)
			var p api.Playback
			err = client(s.AccessToken).Call(t.Context(), http.MethodPost, "/v1/playback", api.NewPlayback{TrackID: media.TrackID(track)}, &p)
			problem, _ := errors.AsType[*api.Problem](err)
			switch {
			case want == "" && err != nil:
				t.Error(err)
			case want != "" && (problem == nil || !strings.HasSuffix(problem.Type, want)):
				t.Errorf("%v, %+v", err, p)
			}
		})
	}
	f("by default it plays", "")
	f("strict", "/not-available-here", "--strict-country")
}
