package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

const exampleHead = `# The configuration of pyrycode-relay: one line for each option, without which the option has
# its default. A line that begins with a hash is a comment; take the hash of an option away
# to set it.
#
#   pyrycode-relay check --config FILE    says what is wrong in this file
#   pyrycode-relay serve --config FILE    runs a relay with it
#
# SIGHUP (systemctl reload) applies the options with [reload]; the others need a restart.
`

// exampleUse describes one use of the relay, with the options that it needs.
var exampleUse = []struct{ title, lines string }{
	{"On the open internet, with a certificate of its own:", "listen: :443\ndomain: relay.example.com\nacme-dir: /var/lib/pyrycode-relay/acme"},
	{"Behind a proxy that terminates TLS:", "listen: 10.0.0.5:8080\ninsecure: true\ntrusted-proxies: 10.0.0.0/24"},
	{"On this machine only, also behind a proxy on it:", "listen: 127.0.0.1:8080"},
}

// exampleConfig writes a configuration with a comment for each option. The options in set
// have the values there. All others are comments with their default.
func exampleConfig(out io.Writer, set map[string]string) {
	fmt.Fprint(out, exampleHead)
	for _, u := range exampleUse {
		fmt.Fprintf(out, "#\n# %s\n#   %s\n", u.title, strings.ReplaceAll(u.lines, "\n", "\n#   "))
	}
	group := ""
	for _, o := range config.Options() {
		if o.Secret {
			continue // it is refused in a file
		}
		if o.Group != group {
			group = o.Group
			fmt.Fprintf(out, "\n## %s\n", group)
		}
		exampleOption(out, o, set)
	}
	fmt.Fprint(out, "\n## Secrets are environment variables only\n")
	for _, o := range config.Options() {
		if o.Secret {
			fmt.Fprintln(out, "#")
			wrap(out, "# "+config.EnvName(o.Name)+": ", "# ", o.Help)
		}
	}
}

// exampleOption writes one option with its comment.
func exampleOption(out io.Writer, o config.Option, set map[string]string) {
	var notes []string
	if o.Values == nil && o.Unit != "" {
		notes = append(notes, o.Unit)
	}
	if o.Values != nil {
		notes = append(notes, strings.Join(o.Values, ", "))
	}
	if o.Most != "" {
		notes = append(notes, fmt.Sprintf("from %s to %s", o.Least, o.Most))
	}
	if o.Reload {
		notes = append(notes, "[reload]")
	}
	fmt.Fprintln(out)
	wrap(out, "# ", "# ", o.Help+" ("+strings.Join(notes, "; ")+")")
	value, ok := set[o.Name]
	hash := "#"
	if ok {
		hash = ""
	} else {
		value = o.Default
	}
	fmt.Fprintf(out, "%s%s: %s\n", hash, o.Name, quotedIfNeeded(value))
}

// quotedIfNeeded returns value in a form that YAML reads as this text.
func quotedIfNeeded(value string) string {
	if value == "" || slices.Contains([]byte(`*&!|>%@[]{},?-"'#`+"`"), value[0]) || strings.Contains(value, ": ") || strings.HasSuffix(value, ":") || strings.Contains(value, " #") {
		return fmt.Sprintf("%q", value)
	}
	return value
}
