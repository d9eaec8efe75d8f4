// Package api holds the wire types of the control plane's HTTP API and its Go client: the only part of the
// control plane that other folders may import. JSON names are snake_case, times are RFC 3339 in UTC, durations
// carry their unit in the name, lists are never null. Errors are RFC 9457 problem documents: type Problem.
//
//go:generate go run segue/tools/apigen client_gen.go
package api
