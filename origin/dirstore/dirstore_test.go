package dirstore_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"segue/media"
	"segue/origin"
	"segue/origin/dirstore"
	"segue/origin/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) origin.Store {
		s, err := dirstore.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	})
}

func TestLinksDoNotLeadOut(t *testing.T) {
	dir := t.TempDir()
	s, err := dirstore.Open(filepath.Join(dir, "origin"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../secret", filepath.Join(dir, "origin", "link")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Get(t.Context(), "link", media.WholeObject, ""); err == nil {
		t.Error("a link led out of the origin")
	}
}

func TestOpenClearsOnlyWhatNobodyWrites(t *testing.T) {
	dir := t.TempDir()
	for name, age := range map[string]time.Duration{".segue-put-young": time.Minute, ".segue-put-old": 3 * time.Hour} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := dirstore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if left, _ := filepath.Glob(filepath.Join(dir, ".segue-put-*")); len(left) != 1 || filepath.Base(left[0]) != ".segue-put-young" {
		t.Errorf("left: %v", left)
	}
}
