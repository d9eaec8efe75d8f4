// Package web holds the player page and the API's documentation page, built by npm (see package.json) and embedded.
package web

import (
	"embed"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

//go:embed all:dist
var dist embed.FS

// Handler serves the pages: "/", "/docs" and "/console/sql", and the files that they load. Files under /assets/ have their content's
// hash in their name and never change.
func Handler() http.Handler {
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		panic("bug: " + err.Error())
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(path.Clean(r.URL.Path), "/")
		switch name {
		case "":
			name = "index.html"
		case "docs":
			name = "docs.html"
		case "console/sql":
			name = "sql.html"
		}
		if _, err := fs.Stat(files, name); err != nil {
			if name == "index.html" {
				http.Error(w, "the web player was not built: run make build", http.StatusNotFound)
				return
			}
			http.NotFound(w, r)
			return
		}
		if strings.HasPrefix(name, "assets/") {
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		} else {
			w.Header().Set("Cache-Control", "no-cache")
		}
		http.ServeFileFS(w, r, files, name)
	})
}
