package playlist_test

import (
	"testing"

	"segue/internal/testenv"
)

func TestSQLite(t *testing.T)   { suite(t, "sqlite:"+t.TempDir()+"/segue.db") }
func TestPostgres(t *testing.T) { suite(t, testenv.Postgres(t)) }

// suite runs every test on one database, each with people of its own: the same SQL, the same answers.
func suite(t *testing.T, dsn string) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, *env)
	}{
		{"names", testNames},
		{"items", testItems},
		{"pages are of one revision", testPagesAreOfOneRevision},
		{"against a line", testAgainstALine},
		{"undo keeps what others did", testUndoKeepsWhatOthersDid},
		{"restore", testRestore},
		{"history is bounded", testHistoryIsBounded},
		{"positions run out", testPositionsRunOut},
		{"roles", testRoles},
		{"invitations", testInvitations},
		{"share links", testShareLinks},
		{"following", testFollowing},
		{"own list", testOwnList},
		{"folders", testFolders},
		{"limits", testLimits},
		{"covers", testCovers},
		{"events and the index", testEvents},
		{"forget and export", testForget},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, newEnv(t, dsn)) })
	}
}
