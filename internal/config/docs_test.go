package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/golden"
)

func TestTheOperatorsPageHasTheOptions(t *testing.T) {
	golden.Section(t, "docs/operate.md", "options", tableOf(Options()))
}

func TestSecretsAndWhatReloadsAreMarked(t *testing.T) {
	got := tableOf(cli.Options(new(struct {
		Key   string `secret:"true" default:"" unit:"text" group:"G" help:"A key."`
		Grace string `reload:"true" default:"30s" unit:"time" group:"G" help:"A | time."`
	})))
	want := "\n| G | Default | What it is |\n|---|---|---|\n" +
		"| `PYRYCODE_RELAY_KEY` | – (text) | A key. |\n" +
		"| `--grace` ↻<br>`PYRYCODE_RELAY_GRACE` | `30s` (time) | A \\| time. |\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// tableOf returns the table of options in docs/operate.md.
func tableOf(options []*cli.Option) string {
	var b strings.Builder
	group := ""
	for _, o := range options {
		if o.Group != group {
			group = o.Group
			fmt.Fprintf(&b, "\n| %s | Default | What it is |\n|---|---|---|\n", group)
		}
		def := "–"
		if o.Default != "" {
			def = "`" + o.Default + "`"
		}
		reload := ""
		if o.Reload {
			reload = " ↻"
		}
		names := "`--" + o.Name + "`" + reload + "<br>`" + EnvName(o.Name) + "`"
		if o.Secret {
			names = "`" + EnvName(o.Name) + "`" + reload
		}
		fmt.Fprintf(&b, "| %s | %s (%s) | %s |\n", names, def, o.Unit, strings.ReplaceAll(o.Help, "|", "\\|"))
	}
	return b.String()
}
