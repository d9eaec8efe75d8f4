package transport

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// recheck is how often, at most, a handshake looks whether the certificate's files have changed.
const recheck = 5 * time.Second

// Files is a certificate with its key, in PEM files that may be replaced while it is served: the next handshake some
// seconds later has the new one. Files that do not fit together, as in the middle of a replacement, leave the old one
// in use.
type Files struct {
	cert, key string
	failed    func(error)

	mu      sync.Mutex // guards the fields below
	current *tls.Certificate
	stamp   string // of the files when they were read
	looked  time.Time
}

// OpenFiles reads the files; failed hears of later faults, from any goroutine.
func OpenFiles(cert, key string, failed func(error)) (*Files, error) {
	f := &Files{cert: cert, key: key, failed: failed, looked: time.Now()}
	if err := f.load(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *Files) load() error {
	stamp := ""
	for _, name := range []string{f.cert, f.key} {
		info, err := os.Stat(name)
		if err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
		stamp += fmt.Sprint(info.ModTime().UnixNano(), " ", info.Size(), " ")
	}
	if stamp == f.stamp {
		return nil
	}
	c, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", f.cert, err)
	}
	f.current, f.stamp = &c, stamp
	return nil
}

func (f *Files) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.looked) >= recheck {
		f.looked = now
		if err := f.load(); err != nil {
			f.failed(err)
		}
	}
	return f.current, nil
}

// Config is for Config.TLS.
func (f *Files) Config() *tls.Config {
	return &tls.Config{GetCertificate: f.get, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
}

// ACME is where certificates come from by RFC 8555, proven by TLS-ALPN-01 (RFC 8737) on the edge's own port, which the
// authority must reach as 443.
type ACME struct {
	Hosts     []string // no others get a certificate
	Dir       string   // keeps account and certificates, mode 0700
	Email     string   // for the authority; may be empty
	Directory string   // URL; empty: Let's Encrypt
}

// Config is for Config.TLS. Certificates are fetched at the first handshake and renewed in time.
func (a ACME) Config() *tls.Config {
	client := &acme.Client{DirectoryURL: cmp.Or(a.Directory, acme.LetsEncryptURL)}
	m := &autocert.Manager{Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(a.Dir), HostPolicy: autocert.HostWhitelist(a.Hosts...), Email: a.Email, Client: client}
	return &tls.Config{GetCertificate: m.GetCertificate, NextProtos: []string{"http/1.1", acme.ALPNProto}, MinVersion: tls.VersionTLS12}
}
