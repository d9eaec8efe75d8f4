package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"segue/controlplane/api"
	"segue/controlplane/recommend/evaluate"
	"segue/internal/serve"
	"segue/media"
)

type recommendCmd struct {
	Train    RecommendTrain    `cmd:"" help:"Have a control plane learn from the play logs now."`
	Evaluate RecommendEvaluate `cmd:"" help:"Measure recommendations on a play log against popularity and item cosine."`
	Generate RecommendGenerate `cmd:"" help:"Write a made-up play log."`
}

// RecommendTrain is `segue recommend train`.
type RecommendTrain struct {
	searchServer
	Full bool `help:"Learn from all plays; default: go on from the last training when it is of today."`
}

// Run orders a training and waits for its end.
func (c *RecommendTrain) Run(ctx context.Context, out *IO) error {
	token, err := adminToken(c.Token, c.TokenFile)
	if err != nil {
		return err
	}
	client, err := api.NewClient(c.Server, func() (string, error) { return token, nil })
	if err != nil {
		return serve.SetupError{Err: err}
	}
	var before, m api.RecommendModel
	if err := client.Call(ctx, http.MethodGet, "/v1/admin/recommendations", nil, &before); err != nil {
		return err
	}
	if err := client.Call(ctx, http.MethodPost, "/v1/admin/recommendations/train", api.NewTraining{Full: c.Full}, &m); err != nil {
		return err
	}
	for begun := time.Now(); m.Running || m.Runs == before.Runs; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(2*time.Second, 50*time.Millisecond+time.Since(begun)/4)):
		}
		m = api.RecommendModel{}
		if err := client.Call(ctx, http.MethodGet, "/v1/admin/recommendations", nil, &m); err != nil {
			return err
		}
	}
	if m.Error != "" {
		return fmt.Errorf("replica %s: %s", m.Replica, m.Error)
	}
	_, err = fmt.Fprintf(out.Stdout, "replica %s: %d tracks and %d listeners, %d pairs, %d MiB; of what was held back %.1f %% found, by popularity alone %.1f %%\n",
		m.Replica, m.Tracks, m.Users, m.Pairs, m.Bytes>>20, 100*m.Recall, 100*m.PopularRecall)
	return err
}

// RecommendEvaluate is `segue recommend evaluate`.
type RecommendEvaluate struct {
	File string  `arg:"" help:"CSV: user,item[,weight][,time], or with a first line that names its columns." type:"existingfile" placeholder:"FILE.csv"`
	Test float64 `help:"Share of the plays, the latest, that is to be found." default:"0.2"`
	Most int     `help:"Listeners that are tried." default:"5000"`
	Seed uint64  `help:"Of what is drawn by lot." default:"1"`
	JSON bool    `help:"Print JSON." name:"json"`
}

// Run prints a table.
func (c *RecommendEvaluate) Run(ctx context.Context, out *IO) error {
	if c.Test <= 0 || c.Test >= 1 || c.Most < 1 {
		return serve.Setupf("--test %v --most %d: want a share between 0 and 1, and at least one listener", c.Test, c.Most)
	}
	f, err := os.Open(c.File)
	if err != nil {
		return serve.SetupError{Err: err}
	}
	defer f.Close()
	events, err := evaluate.Read(f)
	var r evaluate.Result
	if err == nil {
		r, err = evaluate.Run(ctx, events, evaluate.Options{Test: c.Test, Most: c.Most, Seed: c.Seed})
	}
	if errors.Is(err, media.ErrInvalid) {
		return serve.Setupf("%s: %w", c.File, err)
	} else if err != nil {
		return err
	}
	if c.JSON {
		e := json.NewEncoder(out.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	return r.Print(out.Stdout)
}

// RecommendGenerate is `segue recommend generate`.
type RecommendGenerate struct {
	World string `arg:"" optional:"" help:"plain, drift, niche, hits or sparse." default:"plain"`
	Users int    `help:"Listeners; default: the world's." placeholder:"N"`
	Seed  uint64 `help:"Another seed makes other plays of the same kind; default: the world's." placeholder:"N"`
}

// Run writes CSV.
func (c *RecommendGenerate) Run(out *IO) error {
	w, ok := evaluate.Worlds[c.World]
	if !ok {
		return serve.Setupf("world %q: want one of %s", c.World, strings.Join(slices.Sorted(maps.Keys(evaluate.Worlds)), ", "))
	}
	if c.Users > 0 {
		w.Users = c.Users
	}
	if c.Seed > 0 {
		w.Seed = c.Seed
	}
	csv := csv.NewWriter(out.Stdout)
	if err := csv.Write([]string{"user", "item", "time"}); err != nil {
		return err
	}
	for _, e := range evaluate.Generate(w) {
		if err := csv.Write([]string{e.User, e.Item, strconv.FormatInt(e.At.Unix(), 10)}); err != nil {
			return err
		}
	}
	csv.Flush()
	return csv.Error()
}
