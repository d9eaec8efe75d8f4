package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"segue/controlplane/api"
	"segue/internal/serve"
)

// AdminRevoke is `segue admin revoke`: edges refuse tokens before their end.
type AdminRevoke struct {
	Play      string `help:"A play, by its play_id." xor:"what" required:"" placeholder:"ID"`
	User      string `help:"All plays and offline licences of an account, by its id." xor:"what" required:"" placeholder:"ID"`
	CTI       string `help:"One token, by its cti." name:"cti" xor:"what" required:"" placeholder:"CTI"`
	JSON      bool   `help:"Print the answer as it is." name:"json"`
	Reason    string `help:"Why; it is kept with the revocation." default:"operator"`
	Server    string `help:"Control plane." default:"http://127.0.0.1:8080"`
	Token     string `help:"Admin token with the scope admin." env:"SEGUE_ADMIN_TOKEN" placeholder:"TOKEN"`
	TokenFile string `help:"File that holds it." default:"segue-data/admin.token" type:"path"`
}

// Run revokes, and prints the cti of each token that is refused from now on.
func (c *AdminRevoke) Run(ctx context.Context, out *IO) error {
	token, err := adminToken(c.Token, c.TokenFile)
	if err != nil {
		return err
	}
	client, err := api.NewClient(c.Server, func() (string, error) { return token, nil })
	if err != nil {
		return serve.SetupError{Err: err}
	}
	var r api.Revocation
	if err := client.Call(ctx, http.MethodPost, "/v1/admin/revocations", api.NewRevocation{PlayID: c.Play, UserID: c.User, CTI: c.CTI, Reason: c.Reason}, &r); err != nil {
		return err
	}
	if c.JSON {
		if err := json.NewEncoder(out.Stdout).Encode(r); err != nil {
			return err
		}
		if len(r.CTIs) == 0 {
			return errNothing
		}
		return nil
	}
	for _, id := range r.CTIs {
		if _, err := fmt.Fprintln(out.Stdout, id); err != nil {
			return err
		}
	}
	if len(r.CTIs) == 0 {
		return errNothing
	}
	return nil
}

// errNothing makes the exit status tell that there was nothing to revoke.
var errNothing = errors.New("nothing of it is in force")
