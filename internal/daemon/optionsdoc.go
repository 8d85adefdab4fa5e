package daemon

import (
	"fmt"
	"strings"
)

// OptionsTable is the options as docs/operate.md shows them. A test fails
// when the page differs.
func OptionsTable() string { return tableOf(Options()) }

func tableOf(options []Option) string {
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
