package controlplane

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"segue/controlplane/api"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/julienschmidt/httprouter"
)

// smallBody is what an operation takes unless it says otherwise.
const smallBody = 64 << 10

// keyed says in an operation's metadata that it takes an Idempotency-Key; set by register.
const keyed = "keyed"

// operation fills what all operations share.
func operation(id, method, path, tag, summary, who string) huma.Operation {
	op := huma.Operation{OperationID: id, Method: method, Path: path, Tags: []string{tag}, Summary: summary, MaxBodyBytes: smallBody, BodyReadTimeout: bodyTime, Metadata: map[string]any{}}
	if who != "" {
		op.Metadata[need] = who
		scheme := map[string]string{needUser: "listener", needEdge: "edge"}[who]
		scopes := []string{}
		if scheme == "" {
			scheme, scopes = "operator", []string{who[len(adminScope):]}
		}
		op.Security = []map[string][]string{{scheme: scopes}}
	}
	return op
}

// describe documents what the gateway itself may answer, so that the document is all that a caller has to expect.
func describe(a huma.API, op *huma.Operation) {
	schema := a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.Problem](), true, "Problem")
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	problem := func(key, text string) {
		if op.Responses[key] == nil {
			op.Responses[key] = &huma.Response{Description: text, Content: map[string]*huma.MediaType{"application/problem+json": {Schema: schema}}}
		}
	}
	add := func(status int) { problem(strconv.Itoa(status), http.StatusText(status)) }
	for _, status := range []int{400, 422, 429, 500, 503} {
		add(status)
	}
	for _, status := range op.Errors {
		add(status)
	}
	problem("default", "Error")
	for _, key := range []string{"429", "503"} {
		op.Responses[key].Headers = map[string]*huma.Param{"Retry-After": {Description: "seconds to wait; 503 may lack it", Schema: &huma.Schema{Type: huma.TypeInteger}}}
	}
	if op.Metadata[need] != nil {
		add(401)
		add(403)
	}
	if op.Method == http.MethodGet {
		if op.Responses["304"] == nil && op.DefaultStatus < 300 {
			op.Responses["304"] = &huma.Response{Description: "Not Modified: If-None-Match names the answer as it is"}
		}
		if op.Metadata[need] == needUser || strings.Contains(op.Path, "{") {
			add(404)
		}
		return
	}
	for _, status := range []int{404, 408, 409, 413, 415} {
		add(status)
	}
	if op.Method != http.MethodPost || strings.Contains(op.Path, "{") {
		add(412)
		add(428)
	}
	if op.Metadata[need] == nil {
		add(401) // a password or token in the body
	}
	if op.Metadata[keyed] == true {
		text := keyText
		if flagged(op, secretAnswer) {
			text = secretText
		}
		one, most := 1, 257
		op.Parameters = append(op.Parameters, &huma.Param{Name: "Idempotency-Key", In: "header", Description: text, Schema: &huma.Schema{Type: huma.TypeString, MinLength: &one, MaxLength: &most}})
	}
}

// Wire is an operation with the Go types of its input and answer, for the generator of package api's client.
type Wire struct {
	Operation huma.Operation
	In, Out   reflect.Type
}

// wireBody gives in an operation's metadata the Go type of a body that the handler reads by itself.
const wireBody = "wire-body"

// WireBody is that type, or nil.
func (w Wire) WireBody() reflect.Type {
	t, _ := w.Operation.Metadata[wireBody].(reflect.Type)
	return t
}

// wireAnswer gives in an operation's metadata the Go type that a client reads the answer into, where the handler has one of its own.
const wireAnswer = "wire-answer"

// Answer is the Go type of the answer's body; nil: it has none.
func (w Wire) Answer() reflect.Type {
	if t, ok := w.Operation.Metadata[wireAnswer].(reflect.Type); ok {
		return t
	}
	if f, ok := w.Out.FieldByName("Body"); ok {
		return f.Type
	}
	return nil
}

// Keyed says that the operation takes an Idempotency-Key and answers a repeat with the first answer.
func (w Wire) Keyed() bool {
	return w.Operation.Metadata[keyed] == true && !flagged(&w.Operation, secretAnswer)
}

// Wires lists the operations by id.
func (cp *ControlPlane) Wires() []Wire {
	slices.SortFunc(cp.wires, func(a, b Wire) int { return strings.Compare(a.Operation.OperationID, b.Operation.OperationID) })
	return cp.wires
}

// plain adds an operation that huma has no part in, since its body or its answer is a stream.
func (cp *ControlPlane) plain(a huma.API, router *httprouter.Router, op huma.Operation, handle func(http.ResponseWriter, *http.Request) error) {
	describe(a, &op)
	a.OpenAPI().AddOperation(&op)
	router.Handler(op.Method, op.Path, cp.operate(&op, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := handle(w, r); err != nil {
			cp.writeProblem(w, r, err)
		}
	})))
}

// register adds an operation whose handler returns plain errors.
func register[I, O any](cp *ControlPlane, a huma.API, op huma.Operation, handle func(ctx context.Context, in *I) (*O, error)) {
	if op.Metadata == nil {
		op.Metadata = map[string]any{}
	}
	out := reflect.TypeFor[O]()
	if takesKey(&op) {
		op.Metadata[keyed] = true
		if body, ok := out.FieldByName("Body"); ok && holdsSecrets(body.Type, map[reflect.Type]bool{}) {
			op.Metadata[secretAnswer] = true
		}
	}
	describe(a, &op)
	cp.wires = append(cp.wires, Wire{op, reflect.TypeFor[I](), out})
	huma.Register(a, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			p := *cp.problem(ctx, err).(*api.Problem)
			p.Instance = requestID(ctx)
			if h, ok := errors.AsType[huma.HeadersError](err); ok {
				return nil, huma.ErrorWithHeaders(&p, h.GetHeaders())
			}
			if p.RetryAfter > 0 {
				return nil, huma.ErrorWithHeaders(&p, http.Header{"Retry-After": {strconv.Itoa(p.RetryAfter)}})
			}
			return nil, &p
		}
		return out, nil
	})
}

// answer is a JSON body.
type answer[T any] struct{ Body T }

func reply[T any](v T, err error) (*answer[T], error) {
	if err != nil {
		return nil, err
	}
	return &answer[T]{v}, nil
}

// adapter puts huma's operations behind the gateway, on httprouter.
type adapter struct {
	cp     *ControlPlane
	router *httprouter.Router
	heads  map[string]httprouter.Handle // of GETs, by path
}

// Handle is huma.Adapter's.
func (a *adapter) Handle(op *huma.Operation, handle func(huma.Context)) {
	a.cp.serve(a.router, op, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handle(humago.NewContext(op, r, w)) }), a.heads)
}

func (a *adapter) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.router.ServeHTTP(w, r) }

// serve routes an operation. Its {names} are r.PathValue's.
func (cp *ControlPlane) serve(router *httprouter.Router, op *huma.Operation, handle http.Handler, heads map[string]httprouter.Handle) {
	path := strings.NewReplacer("{", ":", "}", "").Replace(op.Path)
	h := cp.operate(op, handle)
	routed := func(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
		for _, p := range ps {
			r.SetPathValue(p.Key, p.Value)
		}
		h.ServeHTTP(w, r)
	}
	router.Handle(op.Method, path, routed)
	if op.Method == http.MethodGet && heads != nil {
		heads[path] = routed
	}
}

// bounded gives an operation its time. A long poll also ends when this replica stops: its caller asks another one.
func (cp *ControlPlane) bounded(ctx context.Context, work time.Duration, poll bool) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, work)
	if !poll {
		return ctx, cancel
	}
	stop := context.AfterFunc(cp.stopping, cancel)
	return ctx, func() { stop(); cancel() }
}
