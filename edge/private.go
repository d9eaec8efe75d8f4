package edge

import (
	"encoding/json"
	"errors"
	"net/http"

	"segue/media"
)

// Private answers the calls of an edge's operator, for a listener that players cannot reach.
//
//	POST /purge   {"kind": "key|prefix|tag", "value": "…", "soft": false}   -> 204 when it holds
//	GET  /inspect?url=…   -> Inspection
//	GET  /top             -> Top
//
// Errors are problem documents, RFC 9457.
func (e *Edge) Private() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /purge", func(w http.ResponseWriter, r *http.Request) {
		var order struct {
			Kind  PurgeKind `json:"kind"`
			Value string    `json:"value"`
			Soft  bool      `json:"soft"`
		}
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<10))
		d.DisallowUnknownFields()
		if err := d.Decode(&order); err != nil {
			privateProblem(w, http.StatusBadRequest, "bad-request", "the body is not a purge: "+err.Error())
			return
		}
		switch err := e.Purge(Purge{Kind: order.Kind, Value: order.Value, Soft: order.Soft}); {
		case errors.Is(err, media.ErrInvalid):
			privateProblem(w, http.StatusUnprocessableEntity, "invalid-purge", err.Error())
		case err != nil:
			privateProblem(w, http.StatusInsufficientStorage, "purge-not-kept", "the purge holds, but would not survive a restart: "+err.Error())
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	})
	mux.HandleFunc("GET /inspect", func(w http.ResponseWriter, r *http.Request) {
		out, err := e.Inspect(r.FormValue("url"))
		if err != nil {
			privateProblem(w, http.StatusNotFound, "no-route", err.Error())
			return
		}
		privateJSON(w, out)
	})
	mux.HandleFunc("GET /top", func(w http.ResponseWriter, _ *http.Request) { privateJSON(w, e.Top()) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		privateProblem(w, http.StatusNotFound, "not-found", "there is nothing at "+r.Method+" "+r.URL.Path)
	})
	return mux
}

func privateJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // the caller has gone
}

func privateProblem(w http.ResponseWriter, status int, slug, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "/problems/" + slug, "title": http.StatusText(status), "status": status, "detail": detail})
}
