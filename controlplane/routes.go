package controlplane

import (
	"fmt"
	"net/http"
	"reflect"
	"segue/media"
	"segue/web"

	"github.com/danielgtaylor/huma/v2"
	"github.com/julienschmidt/httprouter"
)

// routes builds the whole HTTP side: one function per area adds its operations.
func (cp *ControlPlane) routes() http.Handler {
	router := httprouter.New()
	router.HandleMethodNotAllowed, router.HandleOPTIONS, router.RedirectFixedPath = true, false, false
	router.NotFound = cp.anonymous(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cp.writeProblem(w, r, fmt.Errorf("there is nothing at %s: %w", r.URL.Path, media.ErrNotFound))
	}))
	router.MethodNotAllowed = cp.anonymous(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cp.writeProblem(w, r, newProblem(http.StatusMethodNotAllowed, "method-not-allowed", r.Method+" is not for "+r.URL.Path))
	}))
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
	cfg.Info.Description = "Accounts, catalogue, search, playback and play events of a Segue platform, and the calls of its operators and edges. Errors are RFC 9457 problem documents with a stable type.\n\n" +
		"Reads have a strong ETag and answer If-None-Match with 304. RateLimit and RateLimit-Policy say what is left of a budget; 429 and 503 carry Retry-After. " +
		"A create with an Idempotency-Key may be repeated."
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"listener": {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "access_token of POST /v1/sessions"},
		"operator": {Type: "http", Scheme: "bearer", Description: "an admin token with the operation's scope"},
		"edge":     {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "signed by the edge's own key"},
	}
	routed := &adapter{cp, router, map[string]httprouter.Handle{}}
	a := huma.NewAPI(cfg, routed)
	cp.userRoutes(a)
	cp.catalogRoutes(a, router)
	cp.searchRoutes(a)
	cp.playbackRoutes(a)
	cp.playsRoutes(a, router)
	cp.playlistRoutes(a)
	cp.offlineRoutes(a)
	cp.ingestRoutes(a, router)
	cp.fleetRoutes(a)
	cp.backupRoutes(a, router)
	cp.libraryRoutes(a)
	cp.recommendRoutes(a)
	cp.statsRoutes(a)
	cp.playerRoutes(a, router)
	cp.steeringRoutes(a)
	cp.steeringPages(router)
	cp.pageRoutes(router)
	for path, h := range routed.heads {
		if found, _, _ := router.Lookup(http.MethodHead, path); found == nil {
			router.Handle(http.MethodHead, path, h)
		}
	}
	return cp.steering(cp.guard(router))
}

// pageRoutes serves the player, the API's documentation, health and art redirects.
func (cp *ControlPlane) pageRoutes(router *httprouter.Router) {
	pages := cp.anonymous(page(web.Handler()))
	plain := func(method, path string, h httprouter.Handle) {
		router.Handle(method, path, func(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
			cp.anonymous(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h(w, r, ps) })).ServeHTTP(w, r)
		})
	}
	for _, path := range []string{"/", "/docs", "/console/sql", "/assets/*file", "/favicon.svg", "/manifest.webmanifest"} {
		router.Handler(http.MethodGet, path, pages)
		router.Handler(http.MethodHead, path, pages)
	}
	router.GET("/healthz", func(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) { fmt.Fprintln(w, "ok") })
	router.GET("/readyz", func(w http.ResponseWriter, r *http.Request, _ httprouter.Params) {
		if cp.draining.Load() {
			cp.writeProblem(w, r, fmt.Errorf("this replica stops: %w", media.ErrBusy))
			return
		}
		if err := cp.db.PingContext(r.Context()); err != nil {
			cp.writeProblem(w, r, fmt.Errorf("database: %w", media.ErrBusy))
			return
		}
		fmt.Fprintln(w, "ready")
	})
	plain(http.MethodGet, "/.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request, _ httprouter.Params) {
		writeJSON(w, cp.identity.Keys().JWKS())
	})
}
