package transport_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"segue/edge/transport"
)

// authority is as much of an ACME server (RFC 8555) as one order needs. It believes signatures, and checks the proof.
type authority struct {
	t      *testing.T
	web    *httptest.Server
	edge   string // host:port that should prove the name
	key    *ecdsa.PrivateKey
	root   *x509.Certificate
	leaf   []byte
	proven atomic.Bool
	orders atomic.Int32
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, root: root}
	a.web = httptest.NewServer(a)
	t.Cleanup(a.web.Close)
	return a
}

// ServeHTTP implements RFC 8555 7 for one order of one name.
func (a *authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u := a.web.URL
	w.Header().Set("Replay-Nonce", "n")
	w.Header().Set("Content-Type", "application/json")
	var msg struct{ Payload string }
	json.NewDecoder(r.Body).Decode(&msg)
	payload, _ := base64.RawURLEncoding.DecodeString(msg.Payload)
	status := "pending"
	if a.proven.Load() {
		status = "valid"
	}
	challenge := fmt.Sprintf(`{"type":"tls-alpn-01","url":"%s/challenge","token":"token","status":"%s"}`, u, status)
	order := func(status string) {
		w.Header().Set("Location", u+"/order")
		fmt.Fprintf(w, `{"status":"%s","identifiers":[{"type":"dns","value":"edge.test"}],"authorizations":["%s/authz"],"finalize":"%s/finalize","certificate":"%s/cert"}`, status, u, u, u)
	}
	switch r.URL.Path {
	case "/dir":
		fmt.Fprintf(w, `{"newNonce":"%s/nonce","newAccount":"%s/account","newOrder":"%s/new","revokeCert":"%s/revoke","keyChange":"%s/key"}`, u, u, u, u, u)
	case "/nonce":
	case "/account":
		w.Header().Set("Location", u+"/account/1")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"status":"valid"}`)
	case "/new":
		a.orders.Add(1)
		w.Header().Set("Location", u+"/order")
		w.WriteHeader(http.StatusCreated)
		order("pending")
	case "/authz":
		fmt.Fprintf(w, `{"status":"%s","identifier":{"type":"dns","value":"edge.test"},"challenges":[%s]}`, status, challenge)
	case "/challenge":
		// RFC 8737 3: the edge answers for the name, with the protocol, and a certificate that carries the proof.
		c, err := tls.Dial("tcp", a.edge, &tls.Config{ServerName: "edge.test", NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true})
		if err == nil {
			for _, e := range c.ConnectionState().PeerCertificates[0].Extensions {
				if e.Id.String() == "1.3.6.1.5.5.7.1.31" && e.Critical {
					a.proven.Store(true)
				}
			}
			c.Close()
		} else {
			a.t.Error(err)
		}
		fmt.Fprint(w, challenge)
	case "/order":
		if a.proven.Load() {
			status = "ready"
		}
		if a.leaf != nil {
			status = "valid"
		}
		order(status)
	case "/finalize":
		var req struct{ CSR string }
		json.Unmarshal(payload, &req)
		der, _ := base64.RawURLEncoding.DecodeString(req.CSR)
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil {
			a.t.Error(err)
			return
		}
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: csr.DNSNames, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour)}
		if a.leaf, err = x509.CreateCertificate(rand.Reader, tmpl, a.root, csr.PublicKey, a.key); err != nil {
			a.t.Error(err)
		}
		order("valid")
	case "/cert":
		var out bytes.Buffer
		pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: a.leaf})
		pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw})
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		w.Write(out.Bytes())
	default:
		http.NotFound(w, r)
	}
}

func TestACMEGetsACertificate(t *testing.T) {
	a := newAuthority(t)
	dir := t.TempDir()
	for range 2 { // the second life has it on disk
		s := start(t, transport.Config{TLS: transport.ACME{Hosts: []string{"edge.test"}, Dir: dir, Directory: a.web.URL + "/dir"}.Config()}, hello)
		a.edge = s.addr
		pool := x509.NewCertPool()
		pool.AddCert(a.root)
		c := tls.Client(dial(t, s), &tls.Config{RootCAs: pool, ServerName: "edge.test"})
		c.SetDeadline(time.Now().Add(time.Minute))
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		ask(t, c, "/")
	}
	if n := a.orders.Load(); n != 1 {
		t.Errorf("%d orders", n)
	}
}
