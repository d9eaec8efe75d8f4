package segue_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// allowed is the law of HOUSE's layers: folder -> folders of ours that its non-test files may import. A folder
// speaks for those below it unless they have a row of their own. Imports point down only, never sideways.
var allowed = map[string][]string{
	// 0: vocabulary and tools
	"media":               {},
	"geo":                 {},
	"edge/policy":         {},
	"edge/cmcd":           {},
	"internal/eventlog":   {"internal/serve"},
	"internal/serve":      {},
	"internal/clickhouse": {"internal/serve"},
	"web":                 {},
	// 1: contracts
	"media/hls":                {"media"},
	"media/dash":               {"media"},
	"media/cat":                {"media"},
	"controlplane/api":         {"media"},
	"controlplane/api/edgelog": {},
	"internal/registry":        {"geo", "media", "internal/registry"},
	// 2: services
	"edge/fleet":             {"edge", "geo", "media", "media/cat", "controlplane/api", "controlplane/api/edgelog", "internal/registry", "internal/serve"},
	"edge":                   {"media", "media/cat", "edge/policy", "edge/cmcd", "edge", "controlplane/api", "controlplane/api/edgelog", "internal/serve"},
	"origin":                 {"media", "origin", "internal/serve"},
	"packager":               {"media", "media/hls", "media/dash", "packager", "internal/serve"},
	"controlplane":           {"media", "media/cat", "geo", "controlplane", "internal/eventlog", "internal/registry", "internal/serve", "web"},
	"controlplane/store":     {"internal/serve"},
	"controlplane/identity":  {"media", "controlplane/api", "controlplane/store"},
	"controlplane/catalog":   {"media", "controlplane/api", "controlplane/store"},
	"controlplane/search":    {"media", "controlplane/api"},
	"controlplane/playback":  {"media", "media/cat", "geo", "controlplane/api", "controlplane/store"},
	"controlplane/fleet":     {"media", "geo", "controlplane/api", "controlplane/store", "internal/registry"},
	"controlplane/playlist":  {"media", "controlplane/api", "controlplane/store"},
	"controlplane/library":   {"media", "controlplane/api", "controlplane/store"},
	"controlplane/player":    {"media", "controlplane/api", "controlplane/store"},
	"controlplane/offline":   {"media", "media/cat", "controlplane/api", "controlplane/store"},
	"controlplane/recommend": {"controlplane/recommend", "media", "controlplane/api", "controlplane/store"},
	"controlplane/stats":     {"media", "controlplane/api", "controlplane/store"},
	"controlplane/pictures":  {"media", "controlplane/store"},
	"controlplane/steer":     {"media", "media/hls", "media/dash", "media/cat", "geo"},
	"loadtest":               {"media", "media/hls", "media/dash", "controlplane/api"},
	"loadtest/sim":           {"media", "geo", "edge", "loadtest"},
	"controlplane/plays":     {"media", "controlplane/api", "controlplane/api/edgelog", "controlplane/store", "edge/cmcd", "internal/eventlog", "internal/serve"},
	// 3: wiring
	"internal/platform": {"*"},
	"internal/testenv":  {"internal/serve", "internal/clickhouse"},
	"cmd":               {"*"},
	"tools/bench":       {"media", "controlplane/api", "controlplane/catalog/sample", "controlplane/store"},
	"tools/consul":      {},
	"tools/apigen":      {"controlplane", "origin/memstore"},
}

// homes gives each large library its folders: nobody else imports it, so that it can be replaced.
var homes = map[string][]string{
	"github.com/valyala/fasthttp":           {"edge"},
	"github.com/allegro/bigcache":           {"edge"},
	"github.com/minio/minio-go":             {"origin/s3store"},
	"github.com/hashicorp/consul/api":       {"internal/registry"},
	"github.com/nats-io":                    {"internal/eventlog", "tools/bench"},
	"github.com/ClickHouse":                 {"controlplane/plays"},
	"github.com/jackc/pgx":                  {"controlplane/store", "internal/testenv"},
	"modernc.org/sqlite":                    {"controlplane/store"},
	"github.com/pressly/goose":              {"controlplane/store"},
	"github.com/RoaringBitmap":              {"controlplane/search"},
	"github.com/julienschmidt/httprouter":   {"controlplane"},
	"github.com/danielgtaylor/huma":         {"controlplane"},
	"github.com/grafana/pyroscope-go":       {"internal/serve"},
	"github.com/oschwald/maxminddb-golang":  {"geo"},
	"github.com/Eyevinn/mp4ff":              {"packager"},
	"github.com/miekg/dns":                  {"controlplane/steer"},
	"github.com/coreos/go-oidc":             {"controlplane/identity"},
	"go.opentelemetry.io":                   {"controlplane"},
	"github.com/ebitengine/purego":          {"internal/clickhouse"},
	"github.com/fxamacker/cbor":             {"media/cat"},
	"github.com/alecthomas/kong":            {"cmd", "internal/serve"},
	"github.com/schollz/progressbar":        {"cmd", "tools/bench"},
	"github.com/HdrHistogram":               {"loadtest", "tools/bench"},
	"github.com/hashicorp/terraform-plugin": {"terraform/provider"},
}

// lean lists what the edge daemon must never link, at any depth: it has no SQL, no ClickHouse, no search.
var lean = []string{"segue/controlplane/store", "segue/controlplane/search", "segue/controlplane/plays",
	"segue/internal/eventlog", "segue/internal/clickhouse", "segue/internal/platform", "segue/packager"}

func TestLayers(t *testing.T) {
	imports := readImports(t)
	if len(imports) < 10 {
		t.Fatalf("only %d packages found: the walk is broken", len(imports))
	}
	for folder, paths := range imports {
		rules, owner := rowFor(folder)
		if owner == "" {
			t.Errorf("%s has no row in the table of layers", folder)
			continue
		}
		for path, file := range paths {
			if ours, ok := strings.CutPrefix(path, "segue/"); ok && !mayImport(folder, owner, rules, ours) {
				t.Errorf("%s imports %s: %s may not", file, path, folder)
			}
			for lib, where := range homes {
				if (path == lib || strings.HasPrefix(path, lib+"/") || strings.HasPrefix(path, lib+"-")) && !slices.ContainsFunc(where, func(home string) bool { return within(folder, home) }) {
					t.Errorf("%s imports %s, whose home is %v", file, path, where)
				}
			}
		}
	}
}

func TestEdgeDaemonIsLean(t *testing.T) {
	imports := readImports(t)
	seen := map[string]bool{}
	var visit func(folder string)
	visit = func(folder string) {
		if seen[folder] {
			return
		}
		seen[folder] = true
		for path := range imports[folder] {
			if ours, ok := strings.CutPrefix(path, "segue/"); ok {
				visit(ours)
			}
		}
	}
	visit("cmd/segue-edge")
	if !seen["edge"] {
		t.Fatal("cmd/segue-edge does not import edge: the check is blind")
	}
	for _, path := range lean {
		if seen[strings.TrimPrefix(path, "segue/")] {
			t.Errorf("segue-edge links %s", path)
		}
	}
}

func mayImport(folder, owner string, rules []string, ours string) bool {
	for _, r := range rules {
		if r == "*" || r == ours || (r == owner && within(ours, owner)) {
			return true
		}
	}
	return false
}

// rowFor finds the row of the nearest folder at or above.
func rowFor(folder string) ([]string, string) {
	for f := folder; f != "."; f = filepath.Dir(f) {
		if rules, ok := allowed[f]; ok {
			return rules, f
		}
	}
	return nil, ""
}

func within(folder, home string) bool { return folder == home || strings.HasPrefix(folder, home+"/") }

// readImports parses every non-test Go file below the module's root: folder -> import path -> a file that has it.
// The files are read here, not through `go list`, so that a change of theirs is never hidden by the test cache.
func readImports(t *testing.T) map[string]map[string]string {
	t.Helper()
	out := map[string]map[string]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules" || d.Name() == "testdata" || d.Name() == "segue-data") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || filepath.Dir(path) == "." {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		folder := filepath.ToSlash(filepath.Dir(path))
		if out[folder] == nil {
			out[folder] = map[string]string{}
		}
		for _, imp := range f.Imports {
			p, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			out[folder][p] = path
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
