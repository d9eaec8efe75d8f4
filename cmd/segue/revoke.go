package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"segue/controlplane/api"
)

// AdminRevoke is `segue admin revoke`: edges refuse tokens before their end.
type AdminRevoke struct {
	operator
	Play   string `help:"A play, by its play_id." xor:"what" required:"" placeholder:"ID"`
	User   string `help:"All plays and offline licences of an account, by its id." xor:"what" required:"" placeholder:"ID"`
	CTI    string `help:"One token, by its cti." name:"cti" xor:"what" required:"" placeholder:"CTI"`
	Reason string `help:"Why; it is kept with the revocation." default:"operator"`
	JSON   bool   `help:"Print the answer as it is." name:"json"`
}

// Run revokes, and prints the cti of each token that is refused from now on.
func (c *AdminRevoke) Run(ctx context.Context, out *IO) error {
	client, err := c.client()
	if err != nil {
		return err
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
