package s3store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"segue/internal/serve"
	"segue/internal/testenv"
	"segue/media"
	"segue/origin"
	"segue/origin/s3store"
	"segue/origin/storetest"
)

func TestStore(t *testing.T) {
	s3 := testenv.MinIO(t)
	var n atomic.Int32
	storetest.Run(t, func(t *testing.T) origin.Store {
		s, err := s3store.Open(t.Context(), s3store.Config{Endpoint: s3.Endpoint, Bucket: fmt.Sprintf("suite-%d", n.Add(1)), Prefix: "some/where/", AccessKey: s3.AccessKey, SecretKey: s3.SecretKey, Create: true})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
	t.Run("MissingBucket", func(t *testing.T) {
		_, err := s3store.Open(t.Context(), s3store.Config{Endpoint: s3.Endpoint, Bucket: "none", AccessKey: s3.AccessKey, SecretKey: s3.SecretKey})
		if !errors.Is(err, media.ErrNotFound) || !strings.Contains(err.Error(), "create=true") {
			t.Error(err)
		}
	})
	t.Run("WrongSecret", func(t *testing.T) {
		_, err := s3store.Open(t.Context(), s3store.Config{Endpoint: s3.Endpoint, Bucket: "none", AccessKey: s3.AccessKey, SecretKey: "wrong", Create: true})
		if !errors.Is(err, media.ErrDenied) {
			t.Error(err)
		}
	})
}

func TestUnreachable(t *testing.T) {
	begun := time.Now()
	_, err := s3store.OpenURL(context.Background(), "s3://b?endpoint=http://"+testenv.Addr(t), 0, func(string) string { return "x" })
	if _, setup := errors.AsType[serve.SetupError](err); !setup {
		t.Errorf("%v is no setup error", err)
	}
	if d := time.Since(begun); d > 15*time.Second {
		t.Errorf("took %s to say so", d)
	}
}

func TestParseURL(t *testing.T) {
	c, err := s3store.ParseURL("s3://bucket/pre/fix?endpoint=http://h:9000&create=true")
	if err != nil || c.Bucket != "bucket" || c.Prefix != "pre/fix/" || c.Endpoint != "http://h:9000" || !c.Create {
		t.Errorf("%+v, %v", c, err)
	}
	for _, bad := range []string{"s3://", "http://x", "s3://b?colour=red", "s3://user:pw@b", "s3://%zz"} {
		if _, err := s3store.ParseURL(bad); !errors.Is(err, media.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
