// Package controlplane is the gateway over the control plane's services: it opens the stores, wires the services, and
// serves them over HTTP with authentication, limits and one mapping of errors (RFC 9457).
//
//	request -> request id -> limits -> httprouter -> huma (decode, validate) -> authenticate -> service -> encode
//
// Services know no HTTP and not each other; what one needs of another is a function wired in Open.
package controlplane
