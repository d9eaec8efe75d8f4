package eventlog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"segue/internal/eventlog"

	"github.com/google/go-cmp/cmp"
)

var quiet = slog.New(slog.DiscardHandler)

func open(t *testing.T, dir string) *eventlog.Log {
	t.Helper()
	l, err := eventlog.Open(t.Context(), eventlog.Config{Dir: dir}, eventlog.Stream{Name: "plays"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// read consumes until n messages were taken; the first fails of the batches are refused.
func read(t *testing.T, l *eventlog.Log, n, fails int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var got []string
	err := l.Consume(ctx, quiet, eventlog.Reader{Stream: "plays", Name: "test", Batch: 10, Wait: 50 * time.Millisecond}, func(_ context.Context, batch []eventlog.Message) error {
		if fails > 0 {
			fails--
			return errors.New("not now")
		}
		for _, m := range batch {
			got = append(got, m.ID+"="+string(m.Body))
		}
		if len(got) >= n {
			time.AfterFunc(300*time.Millisecond, cancel) // after the acknowledgement
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestOnceEachInOrderOverRestarts(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	var want []string
	var messages []eventlog.Message
	for i := range 25 {
		messages = append(messages, eventlog.Message{ID: fmt.Sprint("id", i), Subject: "plays.event", Body: fmt.Append(nil, i)})
		want = append(want, fmt.Sprintf("id%d=%d", i, i))
	}
	for range 2 { // a repeat is harmless
		if err := l.Append(t.Context(), messages...); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
	l = open(t, dir)
	if d := cmp.Diff(read(t, l, 25, 1), want); d != "" {
		t.Error(d)
	}
	l.Close()
	l = open(t, dir)
	defer l.Close()
	if err := l.Append(t.Context(), eventlog.Message{ID: "new", Subject: "plays.event", Body: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(read(t, l, 1, 0), []string{"new=x"}); d != "" {
		t.Errorf("after a restart: %s", d)
	}
}

// Notices reach who subscribes, here and over another connection, in order, and nobody else.
func TestNotices(t *testing.T) {
	l := open(t, t.TempDir())
	defer l.Close()
	if !l.Connected() {
		t.Error("not connected")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := l.Publish("hints.early", []byte("nobody hears this")); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := l.Subscribe(ctx, "hints.*", func() {
		for i := range 3 {
			if err := l.Publish("hints.x", fmt.Append(nil, i)); err != nil {
				t.Error(err)
			}
			if err := l.Publish("other.x", fmt.Append(nil, i)); err != nil {
				t.Error(err)
			}
		}
	}, func(subject string, body []byte) {
		if got = append(got, subject+"="+string(body)); len(got) == 3 {
			cancel()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(got, []string{"hints.x=0", "hints.x=1", "hints.x=2"}); d != "" {
		t.Error(d)
	}
	l.Close()
	if l.Connected() || l.Publish("hints.x", nil) == nil {
		t.Error("a closed log publishes")
	}
}
