package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"segue/geo"
	"segue/media"

	"github.com/hashicorp/consul/api"
)

const (
	// Service is the name of the service that edges register.
	Service = "segue-edge"

	// consulTTL is the silence after which the agent says critical: one announcement a second, and one and a half for the way.
	consulTTL = 2500 * time.Millisecond
	// consulWait is how long a question waits for news. Short, so that a connection that died is noticed: the answer that does
	// not come is what tells.
	consulWait = 2 * time.Second
	// consulCall bounds one call beside its wait.
	consulCall = 1500 * time.Millisecond
	// rewrite is how often load figures alone may be written: each is a write in the catalogue of the whole cluster. A load
	// that moved by loadStep is written at once.
	rewrite  = 15 * time.Second
	loadStep = 0.05
	// reap is when the agent drops the entry of a node that stays critical.
	reap = time.Hour
)

// ConsulConfig says where the local agent is.
type ConsulConfig struct {
	URL string // consul://host:port or consul+tls://host:port, with ?datacenter=, ?namespace=, ?partition=
	Files
}

// Files prove who talks to whom; certificates are PEM. Their tags are flags of the programs.
type Files struct {
	Token string `help:"File with the ACL token of the registry." name:"token-file" type:"path" placeholder:"FILE"`
	CA    string `help:"Authority of the registry's certificate; default: the system's." name:"ca" type:"path" placeholder:"FILE"`
	Cert  string `help:"Certificate shown to the registry." name:"cert" type:"path" placeholder:"FILE"`
	Key   string `help:"Its key." name:"key" type:"path" placeholder:"FILE"`
}

// Consul is the registry in Consul: edges register with the agent of their machine, as a service with a TTL check and their
// figures as metadata; control planes ask theirs with blocking queries.
type Consul struct {
	client *api.Client

	mu         sync.Mutex // guards registered
	registered map[string]written
}

// written is what an agent was told of a node.
type written struct {
	meta map[string]string
	load float64
	at   time.Time
}

// OpenConsul checks the configuration; it calls nobody. Errors: media.ErrInvalid.
func OpenConsul(c ConsulConfig) (*Consul, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.Scheme != "consul" && u.Scheme != "consul+tls" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return nil, fmt.Errorf("registry %q: want consul://host:port or consul+tls://host:port: %w", c.URL, media.ErrInvalid)
	}
	// What is empty here, the client takes from the variables that all of Consul's tools read (CONSUL_HTTP_TOKEN, CONSUL_CACERT, …).
	cfg := &api.Config{Address: u.Host, Scheme: "http", Transport: &http.Transport{MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: consulCall}}
	if u.Port() == "" {
		cfg.Address += ":8500"
	}
	if u.Scheme == "consul+tls" {
		cfg.Scheme = "https"
		cfg.TLSConfig = api.TLSConfig{Address: u.Hostname(), CAFile: c.CA, CertFile: c.Cert, KeyFile: c.Key}
	} else if c.CA+c.Cert+c.Key != "" {
		return nil, fmt.Errorf("registry %q: certificates need consul+tls://: %w", c.URL, media.ErrInvalid)
	}
	for name, v := range u.Query() {
		switch name {
		case "datacenter":
			cfg.Datacenter = v[0]
		case "namespace":
			cfg.Namespace = v[0]
		case "partition":
			cfg.Partition = v[0]
		default:
			return nil, fmt.Errorf("registry %q: %s is not known: %w", c.URL, name, media.ErrInvalid)
		}
	}
	if c.Token != "" {
		b, err := os.ReadFile(c.Token)
		if err != nil {
			return nil, fmt.Errorf("ACL token of the registry: %w: %w", media.ErrInvalid, err)
		}
		cfg.Token = strings.TrimSpace(string(b))
	}
	client, err := api.NewClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("registry %q: %w: %w", c.URL, media.ErrInvalid, err)
	}
	return &Consul{client: client, registered: map[string]written{}}, nil
}

func serviceID(id string) string { return Service + "-" + id }

// Announce is Registry's. It writes to the catalogue only what is new, and else passes the check at the local agent.
func (c *Consul) Announce(ctx context.Context, b Beat) error {
	ctx, cancel := context.WithTimeout(ctx, consulCall)
	defer cancel()
	meta := metaOf(b)
	c.mu.Lock()
	was, ok := c.registered[b.ID]
	c.mu.Unlock()
	if !ok || news(was, meta, b.Load.Ratio, time.Now()) {
		if err := c.register(ctx, b, meta); err != nil {
			return err
		}
	}
	q := (&api.QueryOptions{}).WithContext(ctx)
	err := c.client.Agent().UpdateTTLOpts("service:"+serviceID(b.ID), "", api.HealthPassing, q)
	if status, is := errors.AsType[api.StatusError](err); is && (status.Code == http.StatusNotFound || strings.Contains(status.Body, "does not have associated TTL") || strings.Contains(strings.ToLower(status.Body), "unknown check")) {
		// The agent began anew without its memory, or somebody deregistered the service.
		if err = c.register(ctx, b, meta); err == nil {
			err = c.client.Agent().UpdateTTLOpts("service:"+serviceID(b.ID), "", api.HealthPassing, q)
		}
	}
	if err != nil {
		return fmt.Errorf("announce to Consul: %w", err)
	}
	return nil
}

// news reports whether the catalogue is to be written.
func news(was written, meta map[string]string, load float64, now time.Time) bool {
	figures := false
	for k, v := range meta {
		if was.meta[k] != v {
			if !strings.HasPrefix(k, "load-") {
				return true
			}
			figures = true
		}
	}
	moved := load - was.load
	return figures && (moved >= loadStep || -moved >= loadStep || now.Sub(was.at) >= rewrite)
}

func (c *Consul) register(ctx context.Context, b Beat, meta map[string]string) error {
	s := &api.AgentServiceRegistration{ID: serviceID(b.ID), Name: Service, Meta: meta, Tags: []string{b.Region},
		Check: &api.AgentServiceCheck{CheckID: "service:" + serviceID(b.ID), Name: "heartbeat", TTL: consulTTL.String(), Status: api.HealthPassing, DeregisterCriticalServiceAfter: reap.String()}}
	if u, err := url.Parse(b.URL); err == nil {
		s.Address = u.Hostname()
		if s.Port, err = strconv.Atoi(u.Port()); err != nil {
			s.Port = map[string]int{"http": 80, "https": 443}[u.Scheme]
		}
	}
	if err := c.client.Agent().ServiceRegisterOpts(s, api.ServiceRegisterOpts{}.WithContext(ctx)); err != nil {
		return fmt.Errorf("register with Consul: %w", err)
	}
	c.mu.Lock()
	c.registered[b.ID] = written{meta, b.Load.Ratio, time.Now()}
	c.mu.Unlock()
	return nil
}

// Withdraw is Registry's.
func (c *Consul) Withdraw(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, consulCall)
	defer cancel()
	c.mu.Lock()
	delete(c.registered, id)
	c.mu.Unlock()
	err := c.client.Agent().ServiceDeregisterOpts(serviceID(id), (&api.QueryOptions{}).WithContext(ctx))
	if status, ok := errors.AsType[api.StatusError](err); ok && (status.Code == http.StatusNotFound || strings.Contains(status.Body, "Unknown service")) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("deregister from Consul: %w", err)
	}
	return nil
}

// Watch is Registry's. It asks for stale answers, so that any server will do; one of a cluster without a leader counts as
// lost, since nothing can change in it.
func (c *Consul) Watch(ctx context.Context, take func(Snapshot)) error {
	var last Snapshot
	index, fails := uint64(0), 0
	for ctx.Err() == nil {
		entries, meta, err := c.ask(ctx, index)
		if err == nil && !meta.KnownLeader {
			err = errors.New("Consul has no leader")
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			index = 0 // the agent may be another when it answers again
			last.Lost = err
			take(Snapshot{last.At, slices.Clone(last.Entries), err})
			pause := min(100*time.Millisecond<<min(fails, 5), 2*time.Second)
			fails++
			select {
			case <-ctx.Done():
			case <-time.After(pause/2 + time.Duration(rand.Int64N(int64(pause)))):
			}
			continue
		}
		fails = 0
		last = Snapshot{At: time.Now(), Entries: entriesOf(entries)}
		take(Snapshot{last.At, slices.Clone(last.Entries), nil})
		// An index that goes back is that of a cluster restored or made anew: begin anew with it. 0 would not wait.
		if next := meta.LastIndex; next < index {
			index = 0
		} else {
			index = max(next, 1)
		}
	}
	return nil
}

func (c *Consul) ask(ctx context.Context, index uint64) ([]*api.ServiceEntry, *api.QueryMeta, error) {
	ctx, cancel := context.WithTimeout(ctx, consulWait+consulWait/16+consulCall) // the agent waits up to a sixteenth longer
	defer cancel()
	q := (&api.QueryOptions{AllowStale: true, WaitIndex: index, WaitTime: consulWait}).WithContext(ctx)
	if index == 0 {
		q.WaitTime = 0
	}
	return c.client.Health().Service(Service, "", false, q)
}

// entriesOf reads what others wrote: an entry that cannot be read is left out, a figure that cannot be read is zero.
func entriesOf(list []*api.ServiceEntry) []Entry {
	byID := map[string]Entry{}
	for _, s := range list {
		if s == nil || s.Service == nil {
			continue
		}
		e := Entry{beatOf(s.Service.Meta), s.Checks.AggregatedStatus() == api.HealthPassing}
		if e.ID == "" || len(e.ID) > 64 {
			continue
		}
		// An edge that moved to another agent is there twice for a while: the one that passes is it.
		if old, ok := byID[e.ID]; !ok || e.Passing || !old.Passing {
			byID[e.ID] = e
		}
	}
	out := make([]Entry, 0, len(byID))
	for _, e := range byID {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// metaOf and beatOf are the form of a Beat in the metadata of a service.
func metaOf(b Beat) map[string]string {
	f := func(v float64) string { return strconv.FormatFloat(v, 'g', 4, 64) }
	return map[string]string{"id": b.ID, "name": b.Name, "region": b.Region, "url": b.URL, "version": b.Version, "tier": string(b.Tier),
		"draining": strconv.FormatBool(b.Draining), "capacity-bps": f(b.CapacityBps), "weight": f(b.Weight), "load-ratio": f(b.Load.Ratio), "load-connections": strconv.FormatInt(b.Load.Connections, 10),
		"load-egress-bps": strconv.FormatInt(b.Load.EgressBps, 10), "load-cpu": f(b.Load.CPURatio), "load-hit": f(b.Load.HitRatio), "load-disk": f(b.Load.DiskRatio)}
}

func beatOf(m map[string]string) Beat {
	f := func(name string, most float64) float64 {
		v, err := strconv.ParseFloat(m[name], 64)
		if err != nil || !(v >= 0 && v <= most) {
			return 0
		}
		return v
	}
	n := func(name string) int64 { return int64(f(name, 1<<53)) }
	return Beat{ID: m["id"], Name: m["name"], Region: m["region"], URL: m["url"], Version: m["version"], Tier: geo.Tier(m["tier"]), Draining: m["draining"] == "true",
		CapacityBps: f("capacity-bps", 1e15), Weight: f("weight", 1e6), Load: Load{Ratio: f("load-ratio", 1), Connections: n("load-connections"), EgressBps: n("load-egress-bps"),
			CPURatio: f("load-cpu", 1), HitRatio: f("load-hit", 1), DiskRatio: f("load-disk", 1)}}
}
