package serve

import (
	"testing"
	"time"
)

func TestClockBeforeTheCommitIsRefused(t *testing.T) {
	commit := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	f := func(now, commit time.Time, refused bool) {
		t.Helper()
		if err := checkClock(now, commit); (err != nil) != refused || refused && ExitCode(err) != 2 {
			t.Errorf("%s: %v", now, err)
		}
	}
	f(time.Unix(0, 0), commit, true)
	f(commit.AddDate(0, -1, 0), commit, true)
	f(commit.Add(-time.Hour), commit, false)
	f(commit.AddDate(9, 0, 0), commit, false)
	f(time.Unix(0, 0), time.Time{}, false)
}
