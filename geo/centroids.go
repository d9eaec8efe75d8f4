package geo

import (
	_ "embed"
	"fmt"
	"strings"
	"sync"
)

// centroidsText has a line for each country: ISO 3166-1 alpha-2, latitude, longitude. It is the centroid of the country's
// largest land mass, computed from the boundaries of Natural Earth 1:50m (naturalearthdata.com, public domain; polygons as
// in the npm package world-atlas 2.0.2) and rounded to a tenth of a degree. Antarctica and fourteen territories that are not in that map
// are the "geographic coordinates" of The World Factbook (public domain).
//
//go:embed centroids.txt
var centroidsText string

var centroids = sync.OnceValue(func() map[string]Point {
	m := make(map[string]Point, 250)
	for line := range strings.Lines(centroidsText) {
		var code string
		var p Point
		if _, err := fmt.Sscan(line, &code, &p.Lat, &p.Lon); err != nil {
			panic("bug: centroids: " + line)
		}
		m[code] = p
	}
	return m
})

// Centroid is a point in the middle of a country, for when nothing better is known. It says little about a large one.
func Centroid(country string) (Point, bool) {
	p, ok := centroids()[country]
	return p, ok
}
