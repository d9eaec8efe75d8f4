package controlplane_test

import (
	"bytes"
	"testing"

	"segue/controlplane/plays"
	"segue/internal/testenv"
)

// ask asks ClickHouse as the analyst; an error is an empty answer, since tables come with the first row.
func ask(t *testing.T, ch *testenv.ClickHouse, sql string) string {
	t.Helper()
	var b bytes.Buffer
	if err := plays.Query(t.Context(), ch.QueryURL(), sql, "TSV", &b); err != nil {
		return ""
	}
	return b.String()
}
