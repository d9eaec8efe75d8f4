package controlplane_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"segue/internal/testenv"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// TestOpenAPIIsValid checks the document against the schema of OpenAPI 3.1 of the OpenAPI Initiative,
// which an npm package of the browser's tests brings along.
func TestOpenAPIIsValid(t *testing.T) {
	s := newServer(t, "sqlite:"+t.TempDir()+"/segue.db", "")
	_, body := s.raw("GET", "/openapi.json", "")
	text, err := os.ReadFile(filepath.Join(testenv.Root(t), "web/e2e/node_modules/@seriousme/openapi-schema-validator/schemas/v3.1/schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	schema, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("https://spec.openapis.org/oas/3.1/schema/test", schema); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile("https://spec.openapis.org/oas/3.1/schema/test")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if err := compiled.Validate(doc); err != nil {
		t.Error(err)
	}
	if !strings.HasPrefix(doc.(map[string]any)["openapi"].(string), "3.1.") {
		t.Error("another version")
	}
}

// contract checks every good answer that the tests of the API get against the document of its server: a status that is
// there, and a body as its schema says.
type contract struct {
	next http.Handler

	once     sync.Once
	doc      document
	compiler *jsonschema.Compiler

	mu       sync.Mutex // guards the fields below
	compiled map[string]*jsonschema.Schema
	wrong    []string
}

func (c *contract) load() {
	w := httptest.NewRecorder()
	c.next.ServeHTTP(w, httptest.NewRequest("GET", "/openapi.json", nil))
	whole, err := jsonschema.UnmarshalJSON(bytes.NewReader(w.Body.Bytes()))
	if err == nil {
		err = json.Unmarshal(w.Body.Bytes(), &c.doc)
	}
	c.compiler, c.compiled = jsonschema.NewCompiler(), map[string]*jsonschema.Schema{}
	c.compiler.DefaultDraft(jsonschema.Draft2020)
	if err == nil {
		err = c.compiler.AddResource("mem:///openapi.json", whole)
	}
	if err != nil {
		c.wrong = append(c.wrong, err.Error())
	}
}

func (c *contract) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodOptions || !strings.HasPrefix(r.URL.Path, "/v1/") {
		c.next.ServeHTTP(w, r)
		return
	}
	c.once.Do(c.load)
	kept := &recorder{ResponseWriter: w}
	c.next.ServeHTTP(kept, r)
	if kept.status < 300 && kept.status != 0 && r.Method != http.MethodHead {
		if why := c.check(r, kept); why != "" {
			c.mu.Lock()
			c.wrong = append(c.wrong, r.Method+" "+r.URL.Path+": "+why)
			c.mu.Unlock()
		}
	}
}

func (c *contract) check(r *http.Request, w *recorder) string {
	path, method := c.template(r.URL.Path, strings.ToLower(r.Method)), strings.ToLower(r.Method)
	op, ok := c.doc.Paths[path][method]
	if !ok {
		return "not documented"
	}
	status := strconv.Itoa(w.status)
	answer, ok := op.Responses[status]
	if !ok {
		return status + " is not documented"
	}
	kind := w.Header().Get("Content-Type")
	if kind == "text/event-stream" { // its events are checked where they are read
		return ""
	}
	if _, ok := answer.Content[kind]; !ok {
		if w.body.Len() == 0 && len(answer.Content) == 0 {
			return ""
		}
		return status + " with " + kind + " is not documented"
	}
	body := io.Reader(&w.body)
	if w.Header().Get("Content-Encoding") != "" || !strings.HasSuffix(kind, "json") {
		return "" // the same content, packed; or a file, which has no schema
	}
	v, err := jsonschema.UnmarshalJSON(body)
	if err != nil {
		return err.Error()
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D")
	at := "mem:///openapi.json#/paths/" + escape.Replace(path) + "/" + method + "/responses/" + status + "/content/" + escape.Replace(kind) + "/schema"
	c.mu.Lock()
	defer c.mu.Unlock()
	schema := c.compiled[at]
	if schema == nil {
		if schema, err = c.compiler.Compile(at); err != nil {
			return err.Error()
		}
		c.compiled[at] = schema
	}
	if err := schema.Validate(v); err != nil {
		return err.Error()
	}
	return ""
}

// template finds the documented path; one without parameters is nearer than one with.
func (c *contract) template(path, method string) (best string) {
	if _, ok := c.doc.Paths[path][method]; ok {
		return path
	}
	parts := strings.Split(path, "/")
	for t, methods := range c.doc.Paths {
		if _, ok := methods[method]; !ok {
			continue
		}
		names := strings.Split(t, "/")
		same := len(names) == len(parts) || strings.HasSuffix(t, "/objects/{key}") && len(parts) > len(names)
		for i := 0; same && i < len(names); i++ {
			same = names[i] == parts[i] || strings.HasPrefix(names[i], "{")
		}
		if same && (best == "" || strings.Count(t, "{") < strings.Count(best, "{")) {
			best = t
		}
	}
	return best
}

type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (w *recorder) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.body.Write(b)
	return w.ResponseWriter.Write(b)
}

func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
