package clickhouse

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"segue/internal/serve"
)

// lockFile is held by the engine in a folder for as long as its process lives.
const lockFile = "lock"

// lock takes a folder for this process; the file returned holds it until it is closed.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, serve.Setupf("clickhouse folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, serve.Setupf("clickhouse folder %s is in use by another engine: %w", dir, err)
	}
	return f, nil
}

// AwaitStopped returns when no engine runs in a folder: one whose parent was killed needs some moments to notice and to
// close its tables, and holds its ports until then. It waits for as long as atMost.
func AwaitStopped(ctx context.Context, dir string, atMost time.Duration) error {
	if _, err := os.Stat(filepath.Join(dir, lockFile)); err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return fmt.Errorf("clickhouse folder: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	for {
		f, err := lock(dir)
		if err == nil {
			return f.Close()
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}
