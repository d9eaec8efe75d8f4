// Command segue is the operator's and listener's program: the whole platform on one machine (up), packaging and
// ingest of audio, and the tools around a running platform.
package main

import (
	"io"
	"log/slog"
)

// IO is what a command may write to. Log goes to Stderr.
type IO struct {
	Stdout, Stderr io.Writer
	Log            *slog.Logger
}

func main() {}
