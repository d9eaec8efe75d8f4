package controlplane

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"segue/controlplane/identity"
	"segue/controlplane/plays"
	"segue/internal/eventlog"
	"segue/media"

	"github.com/danielgtaylor/huma/v2"
	"github.com/julienschmidt/httprouter"
)

// A backup of the embedded form is two things at two moments, the database first: an event that leaves its outbox between
// the two is in both, which readers bear, and never in neither. The log of catalogue events is left out: it tells readers
// what to look at again, and after a restore they are made anew. Play events are kept, since the log is the only place of
// those that ClickHouse has not taken yet.

// Names of the two files in a backup.
const (
	BackupDatabase = "segue.db"
	BackupEvents   = "events.ndjson"
)

// keptEvent is a line of BackupEvents.
type keptEvent struct {
	ID      string `json:"id"`
	Subject string `json:"subject"`
	Body    []byte `json:"body"`
}

// WriteBackup writes both as a tar. snapshot makes the database's copy at a path; dir is a folder for what has to lie
// somewhere until its size is known. Errors before the first byte are those of snapshot and of the event log.
func WriteBackup(ctx context.Context, w io.Writer, dir string, snapshot func(ctx context.Context, to string) error, events *eventlog.Log) error {
	tmp, err := os.MkdirTemp(dir, "backup-")
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer os.RemoveAll(tmp)
	database, log := filepath.Join(tmp, BackupDatabase), filepath.Join(tmp, BackupEvents)
	if err := snapshot(ctx, database); err != nil {
		return err
	}
	if err := writeEvents(ctx, log, events); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	t := tar.NewWriter(w)
	for _, path := range []string{database, log} {
		if err := addFile(t, path); err != nil {
			return fmt.Errorf("backup: %w", err)
		}
	}
	return t.Close()
}

func writeEvents(ctx context.Context, path string, events *eventlog.Log) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b := bufio.NewWriterSize(f, 1<<20)
	lines := json.NewEncoder(b)
	if err := events.Export(ctx, plays.Stream.Name, func(m eventlog.Message) error { return lines.Encode(keptEvent(m)) }); err != nil {
		return err
	}
	return errors.Join(b.Flush(), f.Close())
}

func addFile(t *tar.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Name: filepath.Base(path), Mode: 0o600, Size: info.Size(), ModTime: info.ModTime()}); err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}

// RestoreEvents fills a new embedded event log in a data folder with what a backup kept, and returns how many there were.
func RestoreEvents(ctx context.Context, data string, r io.Reader) (n int, err error) {
	log, err := eventlog.Open(ctx, eventlog.Config{Dir: filepath.Join(data, "events")}, plays.Stream)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	var batch []eventlog.Message
	for lines := json.NewDecoder(r); ; {
		var e keptEvent
		err := lines.Decode(&e)
		if err != nil && !errors.Is(err, io.EOF) {
			return n, fmt.Errorf("event %d of the backup: %w: %w", n+1, media.ErrCorrupt, err)
		}
		if err == nil {
			n++
			batch = append(batch, eventlog.Message(e))
		}
		if len(batch) == 1000 || err != nil && len(batch) > 0 {
			if err := log.Append(ctx, batch...); err != nil {
				return n, err
			}
			batch = batch[:0]
		}
		if err != nil {
			return n, nil
		}
	}
}

// backupWrite is how long one write of a backup may wait for its reader.
const backupWrite = time.Minute

func (cp *ControlPlane) backupRoutes(a huma.API, router *httprouter.Router) {
	op := operation("backup", http.MethodGet, "/v1/admin/backup", "Operations", "What a backup needs of a control plane that runs", adminScope+identity.ScopeAdmin)
	op.Description = "A tar of a copy of the database at one moment (" + BackupDatabase + ") and of the play events in the log (" + BackupEvents + "), of the embedded form only; `segue admin backup` makes " +
		"a backup of it. It holds every secret of the platform. 409 of type not-embedded: the database is PostgreSQL."
	op.Errors = []int{http.StatusConflict}
	op.Responses = map[string]*huma.Response{"200": {Description: "the tar", Content: map[string]*huma.MediaType{"application/x-tar": {}}}}
	op.Metadata[streams] = true
	cp.plain(a, router, op, func(w http.ResponseWriter, r *http.Request) error {
		if !cp.backing.TryLock() {
			return fmt.Errorf("a backup is being made: %w", media.ErrBusy)
		}
		defer cp.backing.Unlock()
		olds, _ := filepath.Glob(filepath.Join(cp.cfg.Data, "backup-*")) // of a process that was killed; nobody else makes one now
		for _, old := range olds {
			os.RemoveAll(old)
		}
		out := &pacedWriter{w: w, conn: http.NewResponseController(w)}
		err := WriteBackup(r.Context(), out, cp.cfg.Data, cp.db.Snapshot, cp.events)
		if err != nil && out.begun {
			cp.log.Warn("a backup broke off", "err", err)
			panic(http.ErrAbortHandler) // half a tar must not look whole
		}
		return err
	})
}

// pacedWriter gives every write its time: the answer is as long as it is.
type pacedWriter struct {
	w     http.ResponseWriter
	conn  *http.ResponseController
	begun bool
}

func (p *pacedWriter) Write(b []byte) (int, error) {
	if !p.begun {
		p.begun = true
		p.w.Header().Set("Content-Type", "application/x-tar")
		p.w.Header().Set("Cache-Control", "no-store")
	}
	_ = p.conn.SetWriteDeadline(time.Now().Add(backupWrite)) // not there in tests without a connection
	return p.w.Write(b)
}
