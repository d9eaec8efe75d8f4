package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"segue/controlplane/api"
	"segue/internal/serve"
)

// operator is how admin commands reach a control plane.
type operator struct {
	Server    string `help:"Control plane." default:"http://127.0.0.1:8080"`
	Token     string `help:"Admin token." env:"SEGUE_ADMIN_TOKEN" placeholder:"TOKEN"`
	TokenFile string `help:"File that holds it." default:"segue-data/admin.token" type:"path"`
}

func (o operator) client() (*api.Client, error) {
	token, err := adminToken(o.Token, o.TokenFile)
	if err != nil {
		return nil, err
	}
	client, err := api.NewClient(o.Server, func() (string, error) { return token, nil })
	if err != nil {
		return nil, serve.SetupError{Err: err}
	}
	return client, nil
}

// AdminToken is `segue admin token`.
type AdminToken struct {
	Create AdminTokenCreate `cmd:"" help:"Make an admin token and print its secret, once."`
	List   AdminTokenList   `cmd:"" help:"List admin tokens."`
	Delete AdminTokenDelete `cmd:"" help:"Take an admin token back."`
}

// AdminTokenCreate is `segue admin token create`.
type AdminTokenCreate struct {
	operator
	Name  string        `arg:"" help:"What it is for."`
	Scope []string      `help:"What it may do: admin (all), catalog, fleet, ingest, stats, users." required:"" placeholder:"SCOPE"`
	For   time.Duration `help:"How long it is good; default: for ever." placeholder:"DURATION"`
}

// Run prints the secret alone, so that it can be piped into a file.
func (c *AdminTokenCreate) Run(ctx context.Context, out *IO) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	n := api.NewAdminToken{Name: c.Name, Scopes: c.Scope}
	if c.For != 0 {
		n.ExpiresAt = new(time.Now().Add(c.For).UTC().Truncate(time.Second))
	}
	var t api.AdminToken
	if err := client.Call(ctx, http.MethodPost, "/v1/admin/tokens", n, &t); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out.Stdout, t.Token)
	return err
}

// AdminTokenList is `segue admin token list`.
type AdminTokenList struct{ operator }

// Run prints a table.
func (c *AdminTokenList) Run(ctx context.Context, out *IO) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	var page api.Page[api.AdminToken]
	if err := client.Call(ctx, http.MethodGet, "/v1/admin/tokens", nil, &page); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tSCOPES\tMADE\tENDS")
	for _, t := range page.Items {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", t.ID, t.Name, strings.Join(t.Scopes, ","), t.CreatedAt.Format(time.DateOnly), ends(t.ExpiresAt))
	}
	return w.Flush()
}

// AdminTokenDelete is `segue admin token delete`.
type AdminTokenDelete struct {
	operator
	ID string `arg:"" help:"As listed."`
}

// Run says nothing when it worked.
func (c *AdminTokenDelete) Run(ctx context.Context) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	return client.Call(ctx, http.MethodDelete, "/v1/admin/tokens/"+url.PathEscape(c.ID), nil, nil)
}

// AdminUsers is `segue admin users`.
type AdminUsers struct {
	List    AdminUsersList    `cmd:"" help:"List accounts."`
	SetPlan AdminUsersSetPlan `cmd:"" help:"Give an account a plan."`
	Suspend AdminUsersSuspend `cmd:"" help:"Sign an account out and keep it out, or let it in again."`
	Delete  AdminUsersDelete  `cmd:"" help:"Delete an account and everything that is kept of it, for good."`
}

// AdminUsersList is `segue admin users list`.
type AdminUsersList struct {
	operator
	Email string `arg:"" optional:"" help:"How the address begins."`
	Limit int    `help:"How many at most." default:"100"`
}

// Run prints a table.
func (c *AdminUsersList) Run(ctx context.Context, out *IO) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tEMAIL\tNAME\tPLAN\tENDS\tSTATE")
	more := false
	for left, cursor := c.Limit, ""; left > 0; {
		var page api.Page[api.AdminUser]
		q := url.Values{"email": {c.Email}, "limit": {fmt.Sprint(min(left, 200))}, "cursor": {cursor}}
		if err := client.Call(ctx, http.MethodGet, "/v1/admin/users?"+q.Encode(), nil, &page); err != nil {
			return err
		}
		for _, u := range page.Items {
			plan, state := string(u.Plan), ""
			if u.FamilyOwnerID != "" {
				plan += " (" + string(u.OwnPlan) + ")" // its own, should it leave the family
			}
			if u.SuspendedAt != nil {
				state = "suspended"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", u.ID, cmp.Or(u.Email, "-"), u.DisplayName, plan, ends(u.PlanExpiresAt), state)
		}
		left -= len(page.Items)
		cursor = page.Next
		if more = cursor != ""; !more {
			break
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if more {
		fmt.Fprintf(out.Stderr, "there are more than %d; see --limit\n", c.Limit)
	}
	return nil
}

// ends prints when something ends.
func ends(at *time.Time) string {
	if at == nil {
		return "-"
	}
	return at.UTC().Format("2006-01-02T15:04Z")
}

// findUser returns the id of the account that an operator names by its id or its whole address.
func findUser(ctx context.Context, client *api.Client, who string) (string, error) {
	if !strings.Contains(who, "@") {
		return who, nil
	}
	for cursor := ""; ; {
		var page api.Page[api.AdminUser]
		q := url.Values{"email": {who}, "cursor": {cursor}}
		if err := client.Call(ctx, http.MethodGet, "/v1/admin/users?"+q.Encode(), nil, &page); err != nil {
			return "", err
		}
		for _, u := range page.Items {
			if strings.EqualFold(u.Email, who) {
				return u.ID, nil
			}
		}
		if cursor = page.Next; cursor == "" {
			return "", serve.Setupf("no account has the address %s", who)
		}
	}
}

// AdminUsersSetPlan is `segue admin users set-plan`.
type AdminUsersSetPlan struct {
	operator
	User  string `arg:"" help:"Address or ID."`
	Plan  string `arg:"" help:"free, premium or family." enum:"free,premium,family"`
	Until string `help:"Last day of it, YYYY-MM-DD in UTC; default: it does not end." placeholder:"DATE"`
}

// Run prints what the account has now.
func (c *AdminUsersSetPlan) Run(ctx context.Context, out *IO) error {
	change := api.AdminUserChange{Plan: new(api.Plan(c.Plan))}
	if c.Until != "" {
		day, err := time.Parse(time.DateOnly, c.Until)
		if err != nil {
			return serve.Setupf("--until %q: want YYYY-MM-DD", c.Until)
		}
		change.PlanExpiresAt = new(day.AddDate(0, 0, 1))
	}
	return c.change(ctx, out, c.User, change)
}

func (o operator) change(ctx context.Context, out *IO, who string, change api.AdminUserChange) error {
	client, err := o.client()
	if err != nil {
		return err
	}
	id, err := findUser(ctx, client, who)
	if err != nil {
		return err
	}
	var u api.AdminUser
	if err := client.Call(ctx, http.MethodPatch, "/v1/admin/users/"+url.PathEscape(id), change, &u); err != nil {
		return err
	}
	state := ""
	if u.SuspendedAt != nil {
		state = ", suspended"
	}
	_, err = fmt.Fprintf(out.Stdout, "%s %s: %s, ends %s%s\n", u.ID, u.Email, u.Plan, ends(u.PlanExpiresAt), state)
	return err
}

// AdminUsersSuspend is `segue admin users suspend`.
type AdminUsersSuspend struct {
	operator
	User string `arg:"" help:"Address or ID."`
	Undo bool   `help:"Let it in again."`
}

// Run prints what the account has now.
func (c *AdminUsersSuspend) Run(ctx context.Context, out *IO) error {
	return c.change(ctx, out, c.User, api.AdminUserChange{Suspended: new(!c.Undo)})
}

// AdminUsersDelete is `segue admin users delete`.
type AdminUsersDelete struct {
	operator
	User string `arg:"" help:"Address or ID."`
	Yes  bool   `help:"I mean it." required:""`
}

// Run says nothing when it worked.
func (c *AdminUsersDelete) Run(ctx context.Context) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	id, err := findUser(ctx, client, c.User)
	if err != nil {
		return err
	}
	return client.Call(ctx, http.MethodDelete, "/v1/admin/users/"+url.PathEscape(id), nil, nil)
}
