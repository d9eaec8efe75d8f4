package platform

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"segue/controlplane"
	"segue/controlplane/api"
	"segue/controlplane/plays"
	"segue/controlplane/store"
	"segue/internal/eventlog"
	"segue/internal/serve"

	"github.com/klauspost/compress/zstd"
)

// A backup is a tar in Zstandard: segue-backup.json first, which says what it is, end.json last, which lists what came
// between with its SHA-256. What has no end is torn.
//
//	segue-backup.json
//	segue.db events.ndjson                        of the control plane, see controlplane.WriteBackup
//	credentials.json admin.token clickhouse.writer
//	edges/<name>/identity.key, edge.json          without them a name would be another edge's
//	origin/…                                      only when asked for
//	end.json
//
// Search index and edge caches are derived and made anew. ClickHouse has tools of its own.
const (
	backupHead   = "segue-backup.json"
	backupEnd    = "end.json"
	backupFormat = "segue-backup"
	backupKind   = 1
)

// head is segue-backup.json.
type head struct {
	Format  string    `json:"format"`
	Kind    int       `json:"kind"` // raised when an older program could not read it
	MadeAt  time.Time `json:"made_at"`
	Version string    `json:"version"` // of the program
	Media   bool      `json:"media"`   // objects of the origin are in it
}

// entry is a line of end.json.
type entry struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// BackupConfig says what is kept.
type BackupConfig struct {
	Data    string // folder of a platform, running or not
	Media   bool   // with the objects of the origin, which must be in the folder
	Version string // of this program
}

// BackupSummary is what a backup holds, or what was restored.
type BackupSummary struct {
	MadeAt time.Time
	Files  int
	Bytes  int64 // before compression
	Media  bool
	Events int // play events that were restored
}

// Backup writes a backup of a data folder. A platform that runs is asked for its part, and serves on. What the operator
// can mend is a serve.SetupError.
func Backup(ctx context.Context, c BackupConfig, w io.Writer) (s BackupSummary, err error) {
	dir, err := filepath.Abs(c.Data)
	if err != nil {
		return s, serve.Setupf("data folder: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "credentials.json")); err != nil {
		return s, serve.Setupf("%s is not the data folder of a platform; give --data", dir)
	}
	if _, err := os.Stat(filepath.Join(dir, "segue.db")); err != nil {
		return s, serve.Setupf("%s has no SQLite database: a platform on PostgreSQL is kept with pg_dump, see docs/operations.md", dir)
	}
	if _, err := os.Stat(filepath.Join(dir, "origin")); c.Media && err != nil {
		return s, serve.Setupf("%s has no media objects: the origin is elsewhere, and is kept by its own means", dir)
	}
	z, err := zstd.NewWriter(w)
	if err != nil {
		return s, fmt.Errorf("bug: %w", err)
	}
	defer z.Close()
	b := &backup{tar: tar.NewWriter(z), summary: BackupSummary{MadeAt: time.Now().UTC().Truncate(time.Second), Media: c.Media}}
	if err := b.json(backupHead, head{backupFormat, backupKind, b.summary.MadeAt, c.Version, c.Media}); err != nil {
		return s, err
	}
	// The control plane first: whatever its rows name was there before them, and is copied after them.
	if err := b.controlPlane(ctx, dir); err != nil {
		return s, err
	}
	for _, name := range []string{"credentials.json", "admin.token", "clickhouse.writer"} {
		if err := b.file(dir, name); err != nil && !(errors.Is(err, fs.ErrNotExist) && name == "clickhouse.writer") { // without an engine there is none
			return s, err
		}
	}
	for _, pattern := range []string{"edges/*/identity.key", "edges/*/edge.json"} {
		found, _ := filepath.Glob(filepath.Join(dir, pattern)) // a bad pattern would be a bug
		for _, path := range found {
			if err := b.file(dir, strings.TrimPrefix(path, dir+"/")); err != nil {
				return s, err
			}
		}
	}
	if c.Media {
		if err := b.media(ctx, dir); err != nil {
			return s, err
		}
	}
	if err := b.json(backupEnd, b.entries); err != nil {
		return s, err
	}
	if err := errors.Join(b.tar.Close(), z.Close()); err != nil {
		return s, fmt.Errorf("write the backup: %w", err)
	}
	return b.summary, nil
}

// backup is one being written.
type backup struct {
	tar     *tar.Writer
	entries []entry
	summary BackupSummary
}

func (b *backup) add(name string, size int64, r io.Reader) error {
	if err := b.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: b.summary.MadeAt}); err != nil {
		return fmt.Errorf("backup: %s: %w", name, err)
	}
	sum := sha256.New()
	if n, err := io.Copy(io.MultiWriter(b.tar, sum), r); err != nil {
		return fmt.Errorf("backup: %s: %w", name, err)
	} else if n != size {
		return fmt.Errorf("backup: %s: %d bytes came of %d", name, n, size)
	}
	if name != backupHead && name != backupEnd {
		b.entries = append(b.entries, entry{name, size, hex.EncodeToString(sum.Sum(nil))})
		b.summary.Files++
		b.summary.Bytes += size
	}
	return nil
}

func (b *backup) json(name string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("bug: %w", err)
	}
	return b.add(name, int64(len(text)), strings.NewReader(string(text)))
}

func (b *backup) file(dir, name string) error {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return b.add(name, info.Size(), f)
}

// controlPlane takes the control plane's part: from the platform, when one runs on the folder, else from its files.
func (b *backup) controlPlane(ctx context.Context, dir string) error {
	d, err := openData(dir)
	if err != nil {
		var c Credentials
		text, rerr := os.ReadFile(filepath.Join(dir, "credentials.json"))
		if rerr == nil {
			rerr = json.Unmarshal(text, &c)
		}
		if rerr != nil {
			return serve.Setupf("credentials of the platform on %s: %w", dir, rerr)
		}
		return b.running(ctx, c)
	}
	defer d.close()
	events, err := eventlog.Open(ctx, eventlog.Config{Dir: d.path("events")}, plays.Stream)
	if err != nil {
		return err
	}
	defer events.Close()
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(controlplane.WriteBackup(ctx, w, dir, func(ctx context.Context, to string) error { return store.SnapshotFile(ctx, d.path("segue.db"), to) }, events))
	}()
	err = b.copy(r)
	r.CloseWithError(errors.New("the backup has ended")) // a writer that waits ends
	return err
}

func (b *backup) running(ctx context.Context, c Credentials) error {
	client, err := api.NewClient(strings.TrimSuffix(c.PlayerURL, "/"), func() (string, error) { return c.AdminToken, nil })
	if err != nil {
		return serve.Setupf("credentials.json: %w", err)
	}
	body, err := client.Stream(ctx, http.MethodGet, "/v1/admin/backup")
	if err != nil {
		return serve.Setupf("ask the platform at %s: %w", c.PlayerURL, err)
	}
	defer body.Close()
	return b.copy(body)
}

// copy takes the entries of the control plane's tar over.
func (b *backup) copy(r io.Reader) error {
	missing := map[string]bool{controlplane.BackupDatabase: true, controlplane.BackupEvents: true}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("backup: the control plane's part: %w", err)
		}
		if !missing[h.Name] {
			return fmt.Errorf("backup: the control plane's part has %q", h.Name)
		}
		delete(missing, h.Name)
		if err := b.add(h.Name, h.Size, t); err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		return errors.New("backup: the control plane's part is not whole")
	}
	return nil
}

// media takes the objects. They never change, and one that is written just now is of a row that is not in the backup.
func (b *backup) media(ctx context.Context, dir string) error {
	return filepath.WalkDir(filepath.Join(dir, "origin"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("backup: %w", err)
		}
		if !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".") { // what a Put has not finished
			return ctx.Err()
		}
		if err := b.file(dir, strings.TrimPrefix(path, dir+"/")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return ctx.Err()
	})
}

// Restore makes a data folder of a backup. The folder must not be there, or be empty; a restore that fails leaves it so.
// Everything that can be wrong with the backup is a serve.SetupError.
func Restore(ctx context.Context, from, data string) (s BackupSummary, err error) {
	dir, err := filepath.Abs(data)
	if err != nil {
		return s, serve.Setupf("data folder: %w", err)
	}
	if list, err := os.ReadDir(dir); err == nil && len(list) > 0 {
		return s, serve.Setupf("%s is not empty: a restore makes a new folder; choose another with --data", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, serve.Setupf("data folder: %w", err)
	}
	f, err := os.Open(from)
	if err != nil {
		return s, serve.SetupError{Err: err}
	}
	defer f.Close()
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return s, serve.Setupf("data folder: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".restoring-") // beside it: put in place whole, or not at all
	if err != nil {
		return s, serve.Setupf("data folder: %w", err)
	}
	defer os.RemoveAll(tmp)
	if s, err = unpack(ctx, f, tmp); err != nil {
		return s, serve.Setupf("%s: %w", from, err)
	}
	if err := store.CheckFile(ctx, filepath.Join(tmp, "segue.db")); err != nil {
		return s, serve.Setupf("%s: %w", from, err)
	}
	lines, err := os.Open(filepath.Join(tmp, controlplane.BackupEvents))
	if err != nil {
		return s, fmt.Errorf("restore: %w", err)
	}
	defer lines.Close()
	if s.Events, err = controlplane.RestoreEvents(ctx, tmp, lines); err != nil {
		return s, fmt.Errorf("restore: %w", err)
	}
	if err := os.Remove(lines.Name()); err != nil {
		return s, fmt.Errorf("restore: %w", err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return s, fmt.Errorf("restore: %w", err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) { // only when it is empty
		return s, serve.Setupf("data folder: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return s, serve.Setupf("data folder: %w", err)
	}
	return s, nil
}

// unpack writes a backup's files below dir and checks that they are all there, as they were.
func unpack(ctx context.Context, r io.Reader, dir string) (s BackupSummary, err error) {
	foreign := errors.New("this is not a backup of segue")
	torn := func(err error) error { return fmt.Errorf("the backup is torn or damaged: %w", err) }
	z, err := zstd.NewReader(r)
	if err != nil {
		return s, foreign
	}
	defer z.Close()
	t := tar.NewReader(z)
	first, err := t.Next()
	if errors.Is(err, io.ErrUnexpectedEOF) { // Zstandard it is
		return s, torn(err)
	}
	if err != nil || first.Name != backupHead || first.Size > 1<<16 {
		return s, foreign
	}
	var h head
	if err := json.NewDecoder(t).Decode(&h); err != nil || h.Format != backupFormat {
		return s, foreign
	}
	if h.Kind != backupKind {
		return s, fmt.Errorf("the backup is of segue %s, which this one cannot read: use that one", h.Version)
	}
	s = BackupSummary{MadeAt: h.MadeAt, Media: h.Media}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return s, err
	}
	defer root.Close()
	have := map[string]entry{}
	for {
		e, err := t.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // there was no end.json
			}
			return s, torn(err)
		}
		if err := ctx.Err(); err != nil {
			return s, err
		}
		if e.Name == backupEnd {
			break
		}
		if e.Typeflag != tar.TypeReg || !belongs(e.Name) {
			return s, fmt.Errorf("the backup has a file that no backup has: %q", e.Name)
		}
		if have[e.Name], err = extract(root, e, t); err != nil {
			if errors.Is(err, errDisk) {
				return s, err
			}
			return s, torn(err)
		}
		s.Files++
		s.Bytes += e.Size
	}
	var list []entry
	if err := json.NewDecoder(t).Decode(&list); err != nil {
		return s, torn(err)
	}
	for _, want := range list {
		if have[want.Name] != want {
			return s, torn(fmt.Errorf("%s is not what was kept", want.Name))
		}
		delete(have, want.Name)
	}
	for name := range have {
		return s, torn(fmt.Errorf("%s was added", name))
	}
	for _, name := range []string{controlplane.BackupDatabase, controlplane.BackupEvents, "credentials.json"} {
		if _, err := root.Stat(name); err != nil {
			return s, torn(err)
		}
	}
	if _, err := t.Next(); !errors.Is(err, io.EOF) {
		return s, torn(fmt.Errorf("after its end: %w", err))
	}
	return s, nil
}

// belongs says that a name is one that Backup writes: below the folder, and nothing that a program would run.
func belongs(name string) bool {
	switch name {
	case controlplane.BackupDatabase, controlplane.BackupEvents, "credentials.json", "admin.token", "clickhouse.writer":
		return true
	}
	parts := strings.Split(name, "/")
	return filepath.IsLocal(name) && (parts[0] == "origin" && len(parts) > 1 || parts[0] == "edges" && len(parts) == 3 && (parts[2] == "identity.key" || parts[2] == "edge.json"))
}

// errDisk is what is not the backup's fault.
var errDisk = errors.New("write")

func extract(root *os.Root, h *tar.Header, r io.Reader) (entry, error) {
	mode := os.FileMode(0o600)
	if strings.HasPrefix(h.Name, "origin/") {
		mode = 0o644
	}
	disk := func(err error) (entry, error) { return entry{}, fmt.Errorf("%w %s: %w", errDisk, h.Name, err) }
	if err := root.MkdirAll(filepath.Dir(h.Name), 0o755); err != nil {
		return disk(err)
	}
	f, err := root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return disk(err)
	}
	defer f.Close()
	sum := &counted{to: f, sum: sha256.New()}
	n, err := io.Copy(sum, r)
	if err != nil && sum.failed == nil {
		return entry{}, err // of the backup
	}
	if err := errors.Join(sum.failed, f.Sync(), f.Close()); err != nil {
		return disk(err)
	}
	return entry{h.Name, n, hex.EncodeToString(sum.sum.Sum(nil))}, nil
}

// counted tells errors of the disk from those of what is read.
type counted struct {
	to     io.Writer
	sum    hash.Hash
	failed error
}

func (c *counted) Write(b []byte) (int, error) {
	c.sum.Write(b)
	n, err := c.to.Write(b)
	c.failed = err
	return n, err
}
