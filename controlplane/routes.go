package controlplane

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/identity"
	"segue/media"
	"segue/web"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humahttprouter"
	"github.com/julienschmidt/httprouter"
)

// routes builds the whole HTTP side: one function per area adds its operations.
func (cp *ControlPlane) routes() http.Handler {
	router := httprouter.New()
	router.HandleMethodNotAllowed, router.HandleOPTIONS, router.RedirectFixedPath = true, false, false
	router.NotFound = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cp.writeProblem(w, r, fmt.Errorf("there is nothing at %s: %w", r.URL.Path, media.ErrNotFound))
	})
	router.MethodNotAllowed = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cp.writeProblem(w, r, newProblem(http.StatusMethodNotAllowed, "method-not-allowed", r.Method+" is not for "+r.URL.Path))
	})
	cfg := huma.DefaultConfig("Segue", cp.cfg.Version)
	cfg.DocsPath, cfg.SchemasPath, cfg.CreateHooks = "", "", nil // docs are ours; answers are as documented, with no added fields
	cfg.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", func(t reflect.Type, hint string) string {
		name := huma.DefaultSchemaNamer(t, hint)
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.PkgPath() == reflect.TypeFor[media.Track]().PkgPath() {
			name = "Media" + name // track.json has a Track too
		}
		return name
	})
	cfg.Info.Description = "Accounts, catalogue, search, playback and play events of a Segue platform, and the calls of its operators and edges. Errors are RFC 9457 problem documents with a stable type."
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"listener": {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "access_token of POST /v1/sessions"},
		"operator": {Type: "http", Scheme: "bearer", Description: "an admin token with the operation's scope"},
		"edge":     {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "signed by the edge's own key"},
	}
	a := humahttprouter.New(router, cfg)
	a.UseMiddleware(cp.middleware(a))
	cp.userRoutes(a)
	cp.catalogRoutes(a, router)
	cp.searchRoutes(a)
	cp.playbackRoutes(a)
	cp.playlistRoutes(a)
	cp.offlineRoutes(a)
	cp.ingestRoutes(a, router)
	cp.fleetRoutes(a)
	cp.libraryRoutes(a)
	cp.playerRoutes(a, router)
	cp.steeringRoutes(a)
	cp.steeringPages(router)
	cp.pageRoutes(router)
	return cp.steering(cp.guard(router))
}

// operation fills what all operations share.
func operation(id, method, path, tag, summary, who string) huma.Operation {
	op := huma.Operation{OperationID: id, Method: method, Path: path, Tags: []string{tag}, Summary: summary, MaxBodyBytes: 64 << 10, BodyReadTimeout: 10 * time.Second}
	if who != "" {
		op.Metadata = map[string]any{need: who}
		scheme := map[string]string{needUser: "listener", needEdge: "edge"}[who]
		var scopes []string
		if scheme == "" {
			scheme, scopes = "operator", []string{who[len(adminScope):]}
		}
		op.Security = []map[string][]string{{scheme: scopes}}
	}
	return op
}

// register adds an operation whose handler returns plain errors.
func register[I, O any](cp *ControlPlane, a huma.API, op huma.Operation, handle func(ctx context.Context, in *I) (*O, error)) {
	huma.Register(a, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			p := *cp.problem(ctx, err).(*api.Problem)
			p.Instance = requestID(ctx)
			if t, ok := errors.AsType[*identity.Throttled](err); ok {
				return nil, huma.ErrorWithHeaders(&p, http.Header{"Retry-After": {strconv.Itoa(int(math.Ceil(t.Wait.Seconds())))}})
			}
			if h, ok := errors.AsType[huma.HeadersError](err); ok {
				return nil, huma.ErrorWithHeaders(&p, h.GetHeaders())
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

// pageRoutes serves the player, the API's documentation, health and art redirects.
func (cp *ControlPlane) pageRoutes(router *httprouter.Router) {
	pages := web.Handler()
	for _, path := range []string{"/", "/docs", "/assets/*file", "/favicon.svg", "/manifest.webmanifest"} {
		router.Handler(http.MethodGet, path, pages)
		router.Handler(http.MethodHead, path, pages)
	}
	router.GET("/healthz", func(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) { fmt.Fprintln(w, "ok") })
	router.GET("/readyz", func(w http.ResponseWriter, r *http.Request, _ httprouter.Params) {
		if err := cp.db.PingContext(r.Context()); err != nil {
			cp.writeProblem(w, r, fmt.Errorf("database: %w", media.ErrBusy))
			return
		}
		fmt.Fprintln(w, "ready")
	})
	router.GET("/.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) {
		writeJSON(w, cp.identity.Keys().JWKS())
	})
}
