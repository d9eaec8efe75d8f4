package transport_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"segue/edge/transport"
)

// selfSigned writes a certificate with a serial number and its key.
func selfSigned(t *testing.T, cert, key string, serial int64) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "edge.test"}, DNSNames: []string{"edge.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: kder}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	var faults []error
	if _, err := transport.OpenFiles(cert, key, nil); err == nil {
		t.Error("no files, and no error")
	}
	selfSigned(t, cert, key, 1)
	files, err := transport.OpenFiles(cert, key, func(err error) { faults = append(faults, err) })
	if err != nil {
		t.Fatal(err)
	}
	serial := func() int64 {
		t.Helper()
		c, err := files.Config().GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return parsed.SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Error(got)
	}
	selfSigned(t, cert, key, 2)
	if got := serial(); got != 1 {
		t.Errorf("files are looked at for every handshake: %d", got)
	}
	files.Recheck()
	if got := serial(); got != 2 {
		t.Errorf("serial %d after the files were replaced", got)
	}
	if err := os.WriteFile(cert, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	files.Recheck()
	if got := serial(); got != 2 || len(faults) != 1 {
		t.Errorf("serial %d, %d faults, after the files were broken", got, len(faults))
	}
}

func TestListenersShareAPort(t *testing.T) {
	lns, err := transport.Listen("127.0.0.1:0", 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, ln := range lns {
		defer ln.Close()
		if ln.Addr().String() != lns[0].Addr().String() {
			t.Errorf("%s and %s", ln.Addr(), lns[0].Addr())
		}
	}
	if _, err := transport.Listen(lns[0].Addr().String(), 1); err == nil {
		t.Error("a stranger took the port too")
	}
}

func TestACMERefusesOtherHosts(t *testing.T) {
	cfg := transport.ACME{Hosts: []string{"edge.test"}, Dir: t.TempDir()}.Config()
	client, server := net.Pipe()
	defer client.Close()
	go tls.Client(client, &tls.Config{ServerName: "other.test"}).Handshake()
	if err := tls.Server(server, cfg).Handshake(); err == nil {
		t.Error("a certificate for any name")
	}
}
