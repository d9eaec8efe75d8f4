package platform

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"segue/internal/serve"

	"github.com/gofrs/flock"
)

// Credentials is the file credentials.json of a data folder, mode 0600: all that a person or a script needs to use
// the platform. Secrets are made once, at the first start; addresses are those of the last start.
type Credentials struct {
	PlayerURL  string        `json:"player_url"`
	DocsURL    string        `json:"docs_url"`
	MetricsURL string        `json:"metrics_url"`
	Edges      []EdgeAddress `json:"edges"`
	Listener   Login         `json:"listener"`    // the demo listener, plan premium
	AdminToken string        `json:"admin_token"` // also alone in admin.token
	ClickHouse Database      `json:"clickhouse"`  // the read-only analyst
	PlaysKey   []byte        `json:"plays_key"`   // makes pseudonyms of user ids in the play logs
}

// EdgeAddress is one edge of the platform.
type EdgeAddress struct {
	Name   string `json:"name"`
	Region string `json:"region"`
	URL    string `json:"url"`
}

// Login is a listener's account.
type Login struct {
	Email    string `json:"email"`
	Password string `json:"password"`
}

// Database is where and as whom analysts ask.
type Database struct {
	HTTPURL  string `json:"http_url"`
	Native   string `json:"native"`
	User     string `json:"user"`
	Password string `json:"password"`
}

// data is an opened data folder, held by a lock for the life of the process.
type data struct {
	dir  string
	lock *flock.Flock
}

// openData makes the folder if need be, proves that it can be written and takes its lock.
func openData(dir string) (*data, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, serve.Setupf("data folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, serve.Setupf("data folder: %w; choose another with --data", err)
	}
	lock := flock.New(filepath.Join(dir, "lock"), flock.SetPermissions(0o600))
	switch got, err := lock.TryLock(); {
	case err != nil:
		return nil, serve.Setupf("data folder %s cannot be written: %w; choose another with --data", dir, err)
	case !got:
		return nil, serve.Setupf("data folder %s is in use by another segue; stop that one or choose another with --data", dir)
	}
	return &data{dir, lock}, nil
}

func (d *data) path(parts ...string) string {
	return filepath.Join(append([]string{d.dir}, parts...)...)
}

func (d *data) close() error { return d.lock.Unlock() }

// credentials reads what an earlier start made, and makes what is missing. It saves nothing: a start that fails leaves
// no credentials of something that never was.
func (d *data) credentials() (Credentials, error) {
	var c Credentials
	b, err := os.ReadFile(d.path("credentials.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return c, serve.Setupf("read credentials: %w", err)
	default:
		if err := json.Unmarshal(b, &c); err != nil {
			return c, serve.Setupf("%s is damaged: %w; restore it, or delete the data folder to start afresh", d.path("credentials.json"), err)
		}
	}
	if c.Listener.Email == "" {
		c.Listener.Email = "listener@segue.local"
	}
	if c.Listener.Password == "" {
		c.Listener.Password = words(12)
	}
	if c.AdminToken == "" {
		c.AdminToken = "sga_" + words(32)
	}
	if len(c.PlaysKey) == 0 {
		c.PlaysKey = make([]byte, 32)
		rand.Read(c.PlaysKey) // never fails: crypto/rand ends the process instead
	}
	return c, nil
}

func (d *data) save(c Credentials) error {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("bug: credentials: %w", err)
	}
	if err := writeSecret(d.path("credentials.json"), append(b, '\n')); err != nil {
		return err
	}
	return writeSecret(d.path("admin.token"), []byte(c.AdminToken+"\n"))
}

// writeSecret replaces a file of mode 0600 whole or not at all.
func writeSecret(path string, b []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return serve.Setupf("write %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return serve.Setupf("write %s: %w", path, err)
	}
	return nil
}

// words returns n random characters that survive being read aloud and pasted anywhere: 5 bits each.
func words(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return strings.ToLower(base32.HexEncoding.EncodeToString(b))[:n]
}

// secret reads one generated secret that nobody needs to see, and makes it the first time.
func (d *data) secret(name string) (string, error) {
	path := d.path(name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b = []byte(words(32))
		err = writeSecret(path, b)
	}
	if err != nil {
		return "", serve.Setupf("secret: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
