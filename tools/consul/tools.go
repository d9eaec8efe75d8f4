//go:build tools

// Package consul pins Consul and what it is built of, in a module of its own: its 250 modules are none of the
// platform's. tools/consul.sh builds the server that the tests of the registry start.
package consul

import _ "github.com/hashicorp/consul"
