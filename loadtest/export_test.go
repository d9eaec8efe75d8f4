package loadtest

import "context"

var testContext = context.Background()

// Noise makes a rendition of noise.
var Noise = noise

// Wire is one connection, for tests of how it reads.
func Wire(base string) func(method, path, headers string, body []byte) (status int, got []byte, dials int, err error) {
	dials := 0
	w := &wire{net: &dialer{timeout: 2e9, dials: func() { dials++ }}, at: base}
	return func(method, path, headers string, body []byte) (int, []byte, int, error) {
		x := exchange{method: method, path: path, headers: headers, body: body, keep: true}
		err := w.do(testContext, &x)
		return x.Status, x.Body, dials, err
	}
}

// KindOf is how an error is counted.
func KindOf(err error) string { return nameOf(err) }
