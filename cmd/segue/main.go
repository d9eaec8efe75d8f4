// Command segue is the operator's and listener's program: the whole platform on one machine (up), packaging and
// ingest of audio, and the tools around a running platform.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"

	"segue/internal/serve"
	"segue/loadtest"

	"github.com/alecthomas/kong"
)

// IO is what a command may write to. Log goes to Stderr.
type IO struct {
	Stdout, Stderr io.Writer
	Log            *slog.Logger
}

// version is set by the build: -ldflags "-X main.version=…".
var version = "dev"

type cli struct {
	Config   kong.ConfigFlag `help:"Read flags from this YAML file; its keys are the flag names without dashes." placeholder:"FILE"`
	LogLevel slog.Level      `help:"Least level logged: debug, info, warn, error." default:"${log_level}" placeholder:"LEVEL"`
	LogJSON  bool            `help:"Log as JSON, for machines." name:"log-json"`

	Up         Up           `cmd:"" help:"Run the whole platform on this machine."`
	Package    Package      `cmd:"" help:"Package audio files into a local folder."`
	Ingest     Ingest       `cmd:"" help:"Package audio files and publish them on a running platform."`
	Admin      admin        `cmd:"" help:"Look into and steer a running platform."`
	LoadTest   LoadTest     `cmd:"" name:"loadtest" help:"Measure what a running platform carries."`
	Sim        Sim          `cmd:"" help:"Plan capacity: what a number of listeners needs, before it is built."`
	Recommend  recommendCmd `cmd:"" help:"Train recommendations, and measure them."`
	ClickHouse ClickHouse   `cmd:"" name:"clickhouse" help:"Run the embedded ClickHouse engine alone."`
	Version    versionCmd   `cmd:"" help:"Print the version."`
}

type admin struct {
	SQL     AdminSQL        `cmd:"" name:"sql" help:"Ask ClickHouse."`
	Purge   AdminPurge      `cmd:"" help:"Make all edges forget a key, a prefix or a tag."`
	Edges   AdminEdges      `cmd:"" help:"The edges of the fleet, their health, and whose opinion that is."`
	Token   AdminToken      `cmd:"" help:"Make, list and take back admin tokens."`
	Users   AdminUsers      `cmd:"" help:"List accounts, and change their plans."`
	Import  AdminImport     `cmd:"" help:"Take artists, albums and tracks into the catalogue, without audio."`
	Revoke  AdminRevoke     `cmd:"" help:"Have edges refuse the tokens of a play or an account."`
	Reindex AdminReindex    `cmd:"" help:"Make the search index anew, while the old one is searched."`
	Verify  AdminVerify     `cmd:"" help:"Compare the search index with the database, and mend it."`
	Dead    AdminDeadLetter `cmd:"" name:"deadletter" help:"What of the play logs can never be stored: look, replay, drop."`
	Backup  AdminBackup     `cmd:"" help:"Keep all that cannot be made anew of a platform, while it runs or not."`
	Restore AdminRestore    `cmd:"" help:"Make a data folder of a backup."`
	Explain AdminExplain    `cmd:"" help:"Say where a client would be sent, and why."`

	Fleet      AdminFleet      `cmd:"" help:"Who runs what; releases and changes of the fleet's configuration."`
	Drain      AdminDrain      `cmd:"" help:"Send the players of an edge or a region elsewhere, and wait until they are gone."`
	Undrain    AdminUndrain    `cmd:"" help:"Send players again."`
	RotateKeys AdminRotateKeys `cmd:"" help:"Make a new signing key, and wait until all edges know it."`
}

type versionCmd struct{}

// Run prints what was built from what.
func (versionCmd) Run(io *IO) error {
	revision := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		revision = info.GoVersion
	}
	_, err := fmt.Fprintf(io.Stdout, "segue %s (%s)\n", version, revision)
	return err
}

func main() { serve.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c cli
	return serve.CommandLine("segue", "Self-hosted music streaming: edges, control plane and tools.", &c, args, stdout, stderr, func(k *kong.Context) error {
		return k.Run(&IO{Stdout: stdout, Stderr: stderr, Log: serve.Logger(stderr, c.LogLevel, c.LogJSON)})
	}, kong.Vars{"log_level": "warn", "scenarios": strings.Join(loadtest.Scenarios(), ", ")}, kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true}), kong.BindTo(ctx, (*context.Context)(nil)))
}
