//go:build race

package edge

const raceEnabled = true // the race detector takes memory of its own
