package controlplane

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"reflect"
	"strconv"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/identity"
	"segue/media"

	"github.com/danielgtaylor/huma/v2"
	"github.com/julienschmidt/httprouter"
)

// objectWriter is the part of origin.Store that uploads need.
type objectWriter interface {
	Put(ctx context.Context, o media.Object, r io.Reader) (media.Object, error)
}

// maxObject bounds one upload: three hours of lossless audio in eight channels stay below.
const maxObject = 8 << 30

func (cp *ControlPlane) ingestRoutes(a huma.API, router *httprouter.Router) {
	const tag, who = "Ingest", adminScope + identity.ScopeIngest
	op := operation("claim", http.MethodPost, "/v1/admin/ingest/claims", tag, "Ask which track a source file is", who)
	register(cp, a, op, func(ctx context.Context, in *struct{ Body api.ClaimRequest }) (*answer[api.Claim], error) {
		return reply(cp.catalog.Claim(ctx, in.Body))
	})
	op = operation("publish", http.MethodPost, "/v1/admin/ingest/tracks", tag, "Take a packaged track into the catalogue", who)
	op.Description = "All objects that the document names must be in the origin: else 409, and nothing changes."
	op.MaxBodyBytes, op.BodyReadTimeout = media.MaxTrackFile, time.Minute
	register(cp, a, op, func(ctx context.Context, in *struct{ Body media.Track }) (*answer[api.Track], error) {
		return reply(cp.catalog.Publish(ctx, in.Body))
	})

	// Objects are streamed, which huma does not do: the routes are plain, and documented by hand.
	const route = "/v1/admin/ingest/objects/*key"
	key := &huma.Param{Name: "key", In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}, Description: "object key, with its slashes"}
	for _, d := range []struct{ id, method, summary, status string }{{"put-object", http.MethodPut, "Store an object", "201"}, {"head-object", http.MethodHead, "Describe a stored object", "200"}} {
		op := operation(d.id, d.method, "/v1/admin/ingest/objects/{key}", tag, d.summary, who)
		op.Parameters = []*huma.Param{key}
		op.Responses = map[string]*huma.Response{d.status: {Description: "ETag and size are in the header"}}
		if d.method == http.MethodPut {
			op.Parameters = append(op.Parameters, &huma.Param{Name: "Content-Digest", In: "header", Required: true, Schema: &huma.Schema{Type: huma.TypeString}, Description: "RFC 9530, sha-256"})
		}
		op.Metadata[streams] = true
		describe(a, &op)
		a.OpenAPI().AddOperation(&op)
		handle := cp.putObject
		if d.method == http.MethodHead {
			handle = cp.headObject
		}
		h := cp.operate(&op, cp.object(handle))
		router.Handle(d.method, route, func(w http.ResponseWriter, r *http.Request, ps httprouter.Params) {
			r.SetPathValue("key", ps.ByName("key"))
			h.ServeHTTP(w, r)
		})
	}
}

// object parses the key before a handler of uploads.
func (cp *ControlPlane) object(handle func(http.ResponseWriter, *http.Request, media.Key) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, err := media.ParseKey(strings.TrimPrefix(r.PathValue("key"), "/"))
		if err == nil {
			err = handle(w, r, key)
		}
		if err != nil {
			cp.writeProblem(w, r, err)
		}
	})
}

func (cp *ControlPlane) putObject(w http.ResponseWriter, r *http.Request, key media.Key) error {
	if !strings.HasPrefix(string(key), "media/") && !strings.HasPrefix(string(key), "art/") {
		return fmt.Errorf("key must begin with media/ or art/: %w", media.ErrInvalid)
	}
	if r.ContentLength < 0 {
		return newProblem(http.StatusLengthRequired, "length-required", "Content-Length is needed")
	}
	if r.ContentLength > maxObject {
		return fmt.Errorf("objects of at most %d bytes are stored: %w", int64(maxObject), media.ErrTooLarge)
	}
	sum, err := parseDigest(r.Header.Get("Content-Digest"))
	if err != nil {
		return err
	}
	contentType := media.ContentTypes[path.Ext(string(key))] // by the key, not as an uploader says: it is sent to browsers
	if contentType == "" {
		return fmt.Errorf("key has an ending that is not of the object layout: %w", media.ErrInvalid)
	}
	o, err := cp.objects.Put(r.Context(), media.Object{Key: key, Size: r.ContentLength, SHA256: sum, ContentType: contentType}, r.Body)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", o.ETag)
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (cp *ControlPlane) headObject(w http.ResponseWriter, r *http.Request, key media.Key) error {
	o, err := cp.objects.Stat(r.Context(), key)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", o.ETag)
	w.Header().Set("Content-Type", o.ContentType)
	w.Header().Set("Content-Length", strconv.FormatInt(o.Size, 10))
	return nil
}

// parseDigest reads the sha-256 of an RFC 9530 Content-Digest as hex.
func parseDigest(s string) (string, error) {
	for part := range strings.SplitSeq(s, ",") {
		value, ok := strings.CutPrefix(strings.TrimSpace(part), "sha-256=:")
		value, closed := strings.CutSuffix(value, ":")
		if b, err := base64.StdEncoding.DecodeString(value); ok && closed && err == nil && len(b) == 32 {
			return hex.EncodeToString(b), nil
		}
	}
	return "", fmt.Errorf("Content-Digest: want sha-256=:<base64>: %w", media.ErrInvalid)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }
