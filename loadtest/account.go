package loadtest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"segue/controlplane/api"
	"segue/media"
)

// account is somebody who may listen. One listener has it at a time: an account plays on one device.
type account struct {
	Email   string `json:"email"`
	Device  string `json:"device_id,omitempty"`
	Refresh string `json:"refresh_token,omitempty"`

	token string
	until time.Time // the token's end, with a margin
}

// Accounts is a file of accounts of one platform, so that they are made once: a password costs the server some 20 ms
// of a core to make and to check, by design.
type Accounts struct {
	Base     string     `json:"base"`
	Password string     `json:"password"`
	List     []*account `json:"accounts"`

	path string
	mu   sync.Mutex // guards free
	free []*account
}

// openAccounts reads the file of a platform's accounts; one that is not there is made when they are saved.
func openAccounts(path, base string) (*Accounts, error) {
	a := &Accounts{Base: base, Password: rand.Text(), path: path}
	if path == "" {
		return a, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, a); err != nil {
		return nil, fmt.Errorf("accounts in %s: %w: %w", path, media.ErrInvalid, err)
	}
	if a.Base != base {
		return nil, fmt.Errorf("accounts in %s are those of %s, not of %s: %w", path, a.Base, base, media.ErrInvalid)
	}
	return a, nil
}

// save writes the file whole or not at all; only its owner reads it.
func (a *Accounts) save() error {
	if a.path == "" {
		return nil
	}
	b, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("bug: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(a.path), ".accounts-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename there is nothing
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), a.path)
}

// take gives an account that nobody uses, or nil.
func (a *Accounts) take() *account {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := len(a.free)
	if n == 0 {
		return nil
	}
	got := a.free[n-1]
	a.free = a.free[:n-1]
	return got
}

func (a *Accounts) give(b *account) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.free = append(a.free, b)
}

// signers are sign-ins under way at once while accounts are prepared: the server hashes passwords on all of its cores.
const signers = 8

// prepare has n accounts signed in. It is not part of what is measured, but a fresh sign-in of a part of sessions is.
func (e *engine) prepare(ctx context.Context, n int) error {
	a := e.accounts
	for len(a.List) < n {
		a.List = append(a.List, &account{Email: fmt.Sprintf("listener-%s@loadtest.invalid", rand.Text()[:16])})
	}
	var next, done atomic.Int64
	errs := make(chan error, signers)
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range signers {
		all.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := e.enter(ctx, i, a.List[i]); err != nil {
					errs <- fmt.Errorf("sign in account %d of %d: %w", i+1, n, err)
					cancel()
					return
				}
				e.progress(Progress{Phase: "accounts", Done: int(done.Add(1)), Of: n})
			}
		})
	}
	all.Wait()
	if err := a.save(); err != nil {
		return err
	}
	select {
	case err := <-errs:
		return err
	default:
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, one := range a.List[:n] {
		a.give(one)
	}
	return nil
}

// enter signs an account in: by its token, else by its password, else it is made.
func (e *engine) enter(ctx context.Context, i int, a *account) error {
	w := &wire{net: &e.net, from: e.address(i), at: e.base}
	defer w.close()
	if a.Refresh != "" {
		if err := e.refresh(ctx, w, a); err == nil {
			return nil
		}
	}
	made := false
	for try := 0; ; try++ {
		err := e.signIn(ctx, w, a)
		if statusOf(err) == http.StatusUnauthorized && !made { // nobody of that name, any more
			if err = e.call(ctx, w, http.MethodPost, "/v1/users", "", api.NewUser{Email: a.Email, Password: e.accounts.Password}, nil); err == nil {
				made, a.Device = true, ""
				continue
			}
		}
		refused, ok := errors.AsType[*refusal](err)
		if err == nil || !ok || refused.after == 0 || try > 100 {
			return err
		}
		select { // it said when to come again
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(refused.after):
		}
	}
}

func (e *engine) signIn(ctx context.Context, w *wire, a *account) error {
	var s api.Session
	err := e.call(ctx, w, http.MethodPost, "/v1/sessions", "", api.NewSession{Email: a.Email, Password: e.accounts.Password, Device: api.Device{ID: a.Device, Type: "other", Name: "loadtest"}}, &s)
	if err == nil {
		a.hold(&s)
	}
	return err
}

func (e *engine) refresh(ctx context.Context, w *wire, a *account) error {
	var s api.Session
	err := e.call(ctx, w, http.MethodPost, "/v1/sessions/refresh", "", api.Refresh{RefreshToken: a.Refresh}, &s)
	if err == nil {
		a.hold(&s)
	}
	return err
}

func (a *account) hold(s *api.Session) {
	a.token, a.Refresh, a.Device = s.AccessToken, s.RefreshToken, s.DeviceID
	a.until = time.Now().Add(time.Duration(s.ExpiresInSeconds)*time.Second - time.Minute)
}
