package registry_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"segue/internal/registry"
	"segue/internal/registry/registrytest"
	"segue/internal/testenv"
	"segue/media"
)

func open(t *testing.T, url string, files registry.Files) *registry.Consul {
	t.Helper()
	c, err := registry.OpenConsul(registry.ConsulConfig{URL: url, Files: files})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConsul(t *testing.T) {
	agent := testenv.StartConsul(t)
	registrytest.Run(t, open(t, agent.URL(), registry.Files{}), open(t, agent.URL(), registry.Files{}))
}

func TestConsulRefuses(t *testing.T) {
	f := func(url string, files registry.Files) {
		t.Helper()
		if _, err := registry.OpenConsul(registry.ConsulConfig{URL: url, Files: files}); !errors.Is(err, media.ErrInvalid) {
			t.Errorf("%s: %v", url, err)
		}
	}
	f("", registry.Files{})
	f("127.0.0.1:8500", registry.Files{})
	f("http://127.0.0.1:8500", registry.Files{})
	f("consul://127.0.0.1:8500/path", registry.Files{})
	f("consul://u:p@127.0.0.1:8500", registry.Files{})
	f("consul://127.0.0.1:8500?dc=1", registry.Files{})
	f("consul://127.0.0.1:8500", registry.Files{CA: "ca.pem"})
	f("consul+tls://127.0.0.1:8501", registry.Files{CA: "/nowhere/ca.pem"})
	f("consul://127.0.0.1:8500", registry.Files{Token: "/nowhere/token"})
}

// TestConsulAgentBeginsAnew: an agent in development mode forgets all with its end.
func TestConsulAgentBeginsAnew(t *testing.T) {
	agent := testenv.StartConsul(t)
	edge, reader := open(t, agent.URL(), registry.Files{}), open(t, agent.URL(), registry.Files{})
	v := registrytest.Watch(t, reader)
	one := registrytest.Beat(1)
	defer registrytest.Announcing(edge, one)()
	v.Until(t, "announced", one.ID, 10*time.Second)
	agent.Kill()
	for end := time.Now().Add(5 * time.Second); v.Last().Lost == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the loss of the agent is not noticed")
		}
	}
	if s := v.Last(); len(s.Entries) != 1 || s.Entries[0].Beat != one || s.At.IsZero() {
		t.Errorf("the last known is not kept: %+v", s)
	}
	agent.Start()
	t.Logf("registered again after %v", v.Until(t, "with the new agent, whose index begins again", one.ID, 20*time.Second))
}

// TestConsulLeaderLost: three servers, each end of the registry at another; the leader is killed and comes back.
func TestConsulLeaderLost(t *testing.T) {
	servers := testenv.StartConsulCluster(t, 3)
	leader := -1
	for i, s := range servers {
		if s.Leads() {
			leader = i
		}
	}
	if leader < 0 {
		t.Fatal("no server leads")
	}
	a, b := servers[(leader+1)%3], servers[(leader+2)%3]
	edge, reader := open(t, a.URL(), registry.Files{}), open(t, b.URL(), registry.Files{})
	registrytest.Run(t, edge, reader)
	v := registrytest.Watch(t, reader)
	one, two := registrytest.Beat(1), registrytest.Beat(2)
	for i := range 20 { // of the suite
		_ = edge.Withdraw(t.Context(), registrytest.Beat(10+i).ID)
	}
	stop := registrytest.Announcing(edge, one)
	stopTwo := registrytest.Announcing(edge, two)
	v.Until(t, "two", one.ID+" "+two.ID, 10*time.Second)

	killed := time.Now()
	servers[leader].Kill()
	// No moment in which the two are told to be gone: they are announced all the time.
	var gone atomic.Int64
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if s := v.Last(); s.Lost == nil && v.Passing() != one.ID+" "+two.ID {
			gone.Add(1)
		}
	}
	if gone.Load() > 0 {
		t.Errorf("nodes that live were told to be gone %d times", gone.Load())
	}
	v.Until(t, "another server leads", one.ID+" "+two.ID, 30*time.Second)
	t.Logf("whole again within %v of the leader's end", time.Since(killed).Round(time.Millisecond))
	stopTwo()
	took := v.Until(t, "silence is noticed by two servers of three", one.ID, 10*time.Second)
	t.Logf("silence was noticed after %v", took.Round(time.Millisecond))
	servers[leader].Start()
	stopTwo = registrytest.Announcing(edge, two)
	v.Until(t, "all three", one.ID+" "+two.ID, 20*time.Second)
	stopTwo()
	stop()
}

// TestConsulSecured: TLS, and ACL tokens that allow no more than each side needs.
func TestConsulSecured(t *testing.T) {
	dir := t.TempDir()
	ca := certificate(t, dir)
	secure := testenv.Port(t)
	const root = "11111111-2222-3333-4444-555555555555"
	agent := testenv.StartConsul(t, fmt.Sprintf(`ports { https = %d } tls { defaults { ca_file = "%s" cert_file = "%s" key_file = "%s" verify_incoming = false } }`, secure, ca, ca, filepath.Join(dir, "key.pem")),
		`acl { enabled = true default_policy = "deny" tokens { initial_management = "`+root+`" } }`)
	call := func(path, body string) map[string]any {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+agent.Addr+path, strings.NewReader(body))
			req.Header.Set("X-Consul-Token", root)
			resp, err := http.DefaultClient.Do(req)
			var out map[string]any
			if err == nil {
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode == 200 && json.Unmarshal(b, &out) == nil {
					return out
				}
				err = fmt.Errorf("%s: %s", resp.Status, b)
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %v", path, err)
			}
		}
	}
	token := func(name, rules string) string {
		t.Helper()
		b, _ := json.Marshal(map[string]string{"Name": name, "Rules": rules})
		call("/v1/acl/policy", string(b))
		made := call("/v1/acl/token", `{"Policies": [{"Name": "`+name+`"}]}`)
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(made["SecretID"].(string)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	writer := token("edge", `service "segue-edge" { policy = "write" }`)
	readers := token("control-plane", `service "segue-edge" { policy = "read" } node_prefix "" { policy = "read" }`)
	url := fmt.Sprintf("consul+tls://127.0.0.1:%d", secure)
	edge, reader := open(t, url, registry.Files{CA: ca, Token: writer}), open(t, url, registry.Files{CA: ca, Token: readers})
	v := registrytest.Watch(t, reader)
	one := registrytest.Beat(1)
	defer registrytest.Announcing(edge, one)()
	v.Until(t, "announced with a token over TLS", one.ID, 20*time.Second)
	for why, c := range map[string]*registry.Consul{"no token": open(t, url, registry.Files{CA: ca}), "a token that may read": reader, "a stranger's certificate": open(t, url, registry.Files{Token: writer})} {
		if err := c.Announce(t.Context(), registrytest.Beat(2)); err == nil {
			t.Errorf("%s: may announce", why)
		}
	}
	blind := registrytest.Watch(t, open(t, url, registry.Files{CA: ca}))
	for end := time.Now().Add(5 * time.Second); blind.Last().At.IsZero() && blind.Last().Lost == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing is told")
		}
	}
	if len(blind.Last().Entries) > 0 {
		t.Errorf("without a token: %+v", blind.Last())
	}
}

// certificate makes one that signs itself, and its key, for 127.0.0.1.
func certificate(t *testing.T, dir string) (path string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "server.dc1.consul"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, DNSNames: []string{"server.dc1.consul", "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "cert.pem")
	if err := errors.Join(os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), 0o600)); err != nil {
		t.Fatal(err)
	}
	return path
}
