// Package dirstore keeps objects as plain files in a directory: the embedded default. An object is one file under
// its key; its SHA-256, taken while it was written, stands in the extended attribute user.segue.sha256 where the
// file system has such, so that a copied tree still serves. The ETag comes from size and modification time, which
// change with every Put.
package dirstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"segue/media"

	"golang.org/x/sys/unix"
)

const (
	attrSHA256     = "user.segue.sha256"
	tempPrefix     = ".segue-put-" // unfinished files: never listed, removed by Open when nobody writes to them
	abandonedAfter = time.Hour     // without a write: no Put pauses so long
)

// Store implements origin.Store in one directory.
type Store struct {
	dir  string
	root *os.Root // confines every path, even through symbolic links
}

// Open uses dir, which it makes if need be, and clears what an interrupted Put left behind.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("origin directory: %w", err)
	}
	s, err := OpenReadOnly(dir)
	if err != nil {
		return nil, err
	}
	probe, err := os.CreateTemp(dir, tempPrefix)
	if err != nil {
		return nil, fmt.Errorf("origin directory cannot be written: %w", err)
	}
	probe.Close()
	olds, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	for _, old := range olds {
		// Another process may be writing here: `segue package` twice into one folder.
		if info, err := os.Stat(old); old != probe.Name() && (err != nil || time.Since(info.ModTime()) < abandonedAfter) {
			continue
		}
		if err := os.Remove(old); err != nil {
			return nil, fmt.Errorf("clear unfinished object: %w", err)
		}
	}
	return s, nil
}

// OpenReadOnly uses an existing directory and never writes to it.
func OpenReadOnly(dir string) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("origin directory: %w", err)
	}
	return &Store{dir, root}, nil
}

// Close releases the directory.
func (s *Store) Close() error { return s.root.Close() }

// Put writes a temporary file, flushes it to disk and renames it into place.
func (s *Store) Put(ctx context.Context, o media.Object, r io.Reader) (media.Object, error) {
	fail := func(err error) (media.Object, error) {
		return media.Object{}, fmt.Errorf("put %s: %w", o.Key, err)
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	f, err := os.CreateTemp(s.dir, tempPrefix)
	if err != nil {
		return fail(err)
	}
	tmp := filepath.Base(f.Name())
	defer func() {
		f.Close()
		_ = s.root.Remove(tmp) // gone already when the rename worked
	}()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), ctxReader{ctx, r})
	if err != nil {
		return fail(err)
	}
	if o.Size >= 0 && n != o.Size {
		return fail(fmt.Errorf("%d bytes came, %d were announced: %w", n, o.Size, media.ErrCorrupt))
	}
	got := hex.EncodeToString(sum.Sum(nil))
	if o.SHA256 != "" && got != o.SHA256 {
		return fail(fmt.Errorf("sha256 %s, want %s: %w", got, o.SHA256, media.ErrCorrupt))
	}
	if err := unix.Fsetxattr(int(f.Fd()), attrSHA256, []byte(got), 0); err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
		return fail(err)
	}
	if err := f.Chmod(0o644); err != nil {
		return fail(err)
	}
	if err := f.Sync(); err != nil {
		return fail(err)
	}
	if dir := path.Dir(string(o.Key)); dir != "." {
		if err := s.root.MkdirAll(dir, 0o755); err != nil {
			return fail(err)
		}
	}
	if err := s.root.Rename(tmp, string(o.Key)); err != nil {
		return fail(err)
	}
	info, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	done := describe(o.Key, info)
	done.SHA256 = got
	return done, nil
}

// Get opens the object's file.
func (s *Store) Get(ctx context.Context, key media.Key, rng media.ByteRange, ifMatch string) (io.ReadCloser, media.Object, error) {
	f, o, err := s.open(ctx, key)
	if err != nil {
		return nil, o, fmt.Errorf("get %s: %w", key, err)
	}
	switch {
	case ifMatch != "" && ifMatch != o.ETag:
		f.Close()
		return nil, o, fmt.Errorf("get %s: has %s, want %s: %w", key, o.ETag, ifMatch, media.ErrChanged)
	case rng.Offset < 0 || rng.Offset > 0 && rng.Offset >= o.Size:
		f.Close()
		return nil, o, fmt.Errorf("get %s from %d of %d: %w", key, rng.Offset, o.Size, media.ErrRange)
	}
	n := o.Size - rng.Offset
	if rng.Length >= 0 {
		n = min(n, rng.Length)
	}
	return section{io.NewSectionReader(f, rng.Offset, n), f}, o, nil
}

// Stat describes the object's file.
func (s *Store) Stat(ctx context.Context, key media.Key) (media.Object, error) {
	f, o, err := s.open(ctx, key)
	if err != nil {
		return o, fmt.Errorf("stat %s: %w", key, err)
	}
	return o, f.Close()
}

func (s *Store) open(ctx context.Context, key media.Key) (*os.File, media.Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, media.Object{}, err
	}
	f, err := s.root.Open(string(key))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG) {
			err = media.ErrNotFound
		}
		return nil, media.Object{}, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = media.ErrNotFound
	}
	if err != nil {
		f.Close()
		return nil, media.Object{}, err
	}
	o := describe(key, info)
	var buf [64]byte
	if n, err := unix.Fgetxattr(int(f.Fd()), attrSHA256, buf[:]); err == nil && n == len(buf) {
		o.SHA256 = string(buf[:])
	}
	return f, o, nil
}

// Delete removes the file; empty folders stay.
func (s *Store) Delete(ctx context.Context, key media.Key) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	if err := s.root.Remove(string(key)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// List walks the folder in which prefix ends. It holds the names of that subtree in memory, to sort them by key:
// a directory walk sorts "a/b" before "a.txt", S3 after it.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[media.Object, error] {
	return func(yield func(media.Object, error) bool) {
		start := "."
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			start = prefix[:i]
		}
		if start != "." {
			if _, err := media.ParseKey(start); err != nil {
				return // no key begins so
			}
		}
		var found []media.Object
		err := fs.WalkDir(s.root.FS(), start, func(name string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil // the start, or a file deleted under our feet
			case err != nil:
				return err
			case ctx.Err() != nil:
				return ctx.Err()
			case !d.Type().IsRegular() || !strings.HasPrefix(name, prefix) || strings.HasPrefix(name, tempPrefix):
				return nil
			}
			info, err := d.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			} else if err != nil {
				return err
			}
			found = append(found, describe(media.Key(name), info))
			return nil
		})
		if err != nil {
			yield(media.Object{}, fmt.Errorf("list %s: %w", prefix, err))
			return
		}
		slices.SortFunc(found, func(a, b media.Object) int { return strings.Compare(string(a.Key), string(b.Key)) })
		for _, o := range found {
			if !yield(o, nil) {
				return
			}
		}
	}
}

func describe(key media.Key, info fs.FileInfo) media.Object {
	inode := uint64(0)
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino // a replaced file is a new one, even within one tick of the clock
	}
	return media.Object{
		Key:         key,
		Size:        info.Size(),
		ETag:        fmt.Sprintf(`"%x-%x-%x"`, info.Size(), info.ModTime().UnixNano(), inode),
		ContentType: media.ContentTypes[path.Ext(string(key))],
		ModTime:     info.ModTime().UTC().Truncate(time.Second),
	}
}

type section struct {
	*io.SectionReader
	io.Closer
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
