package serve

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/goccy/go-yaml"
)

// YAML is a kong configuration loader for the one file of a process: a flat YAML mapping whose keys are the names
// of the command's flags, so `--help` is the manual of the file too. Flags given on the command line win. A key
// that is no flag, a nested mapping and a broken file are errors that name the key.
//
//	listen: 127.0.0.1:8081
//	memory: 256MiB
//	route: ["/=http://127.0.0.1:9000"]
func YAML(r io.Reader) (kong.Resolver, error) {
	values := map[string]any{}
	if err := yaml.NewDecoder(r).Decode(&values); err != nil && err != io.EOF {
		return nil, fmt.Errorf("config file: %s", strings.SplitN(err.Error(), "\n", 2)[0])
	}
	return &fileResolver{values}, nil
}

type fileResolver struct{ values map[string]any }

// Validate refuses keys that no flag of the program has.
func (f *fileResolver) Validate(app *kong.Application) error {
	known := map[string]bool{}
	_ = kong.Visit(app, func(n kong.Visitable, next kong.Next) error {
		if flag, ok := n.(*kong.Flag); ok {
			known[flag.Name] = true
		}
		return next(nil)
	})
	for key, v := range f.values {
		if !known[key] {
			return fmt.Errorf("config file: unknown key %q; the keys are the flags of --help without their dashes", key)
		}
		if _, nested := v.(map[string]any); nested {
			return fmt.Errorf("config file: key %q holds a mapping, want one value or a list", key)
		}
	}
	return nil
}

// Resolve gives the file's value for a flag, in the text form that the flag itself takes.
func (f *fileResolver) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	v, ok := f.values[flag.Name]
	if !ok {
		return nil, nil
	}
	if list, ok := v.([]any); ok {
		if flag.Tag.Sep == -1 { // kong takes such a list as it is
			return list, nil
		}
		parts := make([]string, len(list))
		for i, e := range list {
			parts[i] = fmt.Sprint(e)
		}
		return kong.JoinEscaped(parts, flag.Tag.Sep), nil
	}
	return fmt.Sprint(v), nil
}

// CommandLine parses a program's arguments into cli, with the file given by --config behind them, and calls run. --help
// and --version end it well, without run. What is wrong with the arguments is a SetupError.
func CommandLine(name, description string, cli any, args []string, stdout, stderr io.Writer, run func(*kong.Context) error, options ...kong.Option) error {
	exited := errors.New("exited")
	parser, err := kong.New(cli, append([]kong.Option{kong.Name(name), kong.Description(description), kong.UsageOnError(), kong.Configuration(YAML),
		kong.Writers(stdout, stderr), kong.Exit(func(int) { panic(exited) })}, options...)...) // only --help and --version end so
	if err != nil {
		return fmt.Errorf("bug: command line: %w", err)
	}
	k, err := parse(parser, args, exited)
	switch {
	case errors.Is(err, exited):
		return nil
	case err != nil:
		return SetupError{Err: fmt.Errorf("%w; see %s --help", err, name)}
	}
	return run(k)
}

func parse(parser *kong.Kong, args []string, exited error) (k *kong.Context, err error) {
	defer func() {
		if r := recover(); r == any(exited) {
			err = exited
		} else if r != nil {
			panic(r)
		}
	}()
	return parser.Parse(args)
}
