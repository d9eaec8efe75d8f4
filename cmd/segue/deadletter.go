package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"text/tabwriter"
	"time"

	"segue/controlplane/api"
	"segue/internal/serve"
)

// AdminDeadLetter are `segue admin deadletter …`.
type AdminDeadLetter struct {
	List   DeadLetterList   `cmd:"" help:"List messages of the play logs that can never be stored."`
	Show   DeadLetterShow   `cmd:"" help:"Show one, with what is in it, as JSON."`
	Replay DeadLetterReplay `cmd:"" help:"Give some back to their log, to be stored after all."`
	Drop   DeadLetterDrop   `cmd:"" help:"Give some up for good."`
}

// adminAt is where an admin command asks, and as whom.
type adminAt struct {
	Server    string `help:"Control plane." default:"http://127.0.0.1:8080"`
	Token     string `help:"Admin token with the scope admin." env:"SEGUE_ADMIN_TOKEN" placeholder:"TOKEN"`
	TokenFile string `help:"File that holds it." default:"segue-data/admin.token" type:"path"`
}

func (a adminAt) client() (*api.Client, error) {
	token, err := adminToken(a.Token, a.TokenFile)
	if err != nil {
		return nil, err
	}
	c, err := api.NewClient(a.Server, func() (string, error) { return token, nil })
	if err != nil {
		return nil, serve.SetupError{Err: err}
	}
	return c, nil
}

// DeadLetterList is `segue admin deadletter list`.
type DeadLetterList struct {
	JSON bool    `help:"As JSON, one a line." name:"json"`
	At   adminAt `embed:""`
}

// Run prints all of them, oldest first.
func (c *DeadLetterList) Run(ctx context.Context, out *IO) error {
	client, err := c.At.client()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out.Stdout, 0, 0, 2, ' ', 0)
	n := 0
	err = eachDeadLetter(ctx, client, func(d api.DeadLetter) error {
		n++
		if c.JSON {
			return json.NewEncoder(out.Stdout).Encode(d)
		}
		if n == 1 {
			fmt.Fprintln(w, "ID\tSTREAM\tLOGGED\tBYTES\tREASON")
		}
		_, err := fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%s\n", d.ID, d.Stream, d.LoggedAt.Format(time.DateTime), d.Bytes, d.Reason)
		return err
	})
	if err != nil {
		return err
	}
	if n == 0 {
		fmt.Fprintln(out.Stderr, "none: everything can be stored")
	}
	return w.Flush()
}

func eachDeadLetter(ctx context.Context, client *api.Client, each func(api.DeadLetter) error) error {
	for cursor := "0"; cursor != ""; {
		var page api.Page[api.DeadLetter]
		if err := client.Call(ctx, http.MethodGet, "/v1/admin/deadletters?limit=500&cursor="+cursor, nil, &page); err != nil {
			return err
		}
		for _, d := range page.Items {
			if err := each(d); err != nil {
				return err
			}
		}
		cursor = page.Next
	}
	return nil
}

// DeadLetterShow is `segue admin deadletter show`.
type DeadLetterShow struct {
	ID int64   `arg:"" help:"Its number in the list."`
	At adminAt `embed:""`
}

// Run prints one.
func (c *DeadLetterShow) Run(ctx context.Context, out *IO) error {
	client, err := c.At.client()
	if err != nil {
		return err
	}
	var d api.DeadLetter
	if err := client.Call(ctx, http.MethodGet, "/v1/admin/deadletters/"+strconv.FormatInt(c.ID, 10), nil, &d); err != nil {
		return err
	}
	e := json.NewEncoder(out.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(d)
}

// DeadLetterReplay is `segue admin deadletter replay`.
type DeadLetterReplay struct {
	IDs []int64 `arg:"" optional:"" name:"id" help:"Their numbers in the list."`
	All bool    `help:"All that there are now."`
	At  adminAt `embed:""`
}

// Run gives them back.
func (c *DeadLetterReplay) Run(ctx context.Context, out *IO) error {
	return c.At.each(ctx, out, c.IDs, c.All, http.MethodPost, "/replay")
}

// DeadLetterDrop is `segue admin deadletter drop`.
type DeadLetterDrop struct {
	IDs []int64 `arg:"" optional:"" name:"id" help:"Their numbers in the list."`
	All bool    `help:"All that there are now."`
	At  adminAt `embed:""`
}

// Run drops them.
func (c *DeadLetterDrop) Run(ctx context.Context, out *IO) error {
	return c.At.each(ctx, out, c.IDs, c.All, http.MethodDelete, "")
}

func (a adminAt) each(ctx context.Context, out *IO, ids []int64, all bool, method, action string) error {
	if all == (len(ids) > 0) {
		return serve.Setupf("name some, or say --all")
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	if all { // the list as it is now: what fails again comes back at its end
		if err := eachDeadLetter(ctx, client, func(d api.DeadLetter) error { ids = append(ids, d.ID); return nil }); err != nil {
			return err
		}
	}
	for _, id := range ids {
		if err := client.Call(ctx, method, fmt.Sprintf("/v1/admin/deadletters/%d%s", id, action), nil, nil); err != nil {
			return fmt.Errorf("%d: %w", id, err)
		}
	}
	fmt.Fprintf(out.Stderr, "%d done\n", len(ids))
	return nil
}
