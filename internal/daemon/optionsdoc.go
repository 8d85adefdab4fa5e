package daemon

import (
	"fmt"
	"strings"
)

// OptionsTable is the options as docs/operate.md shows them. A test fails
// when the page differs.
func OptionsTable() string {
	var b strings.Builder
	group := ""
	for _, o := range Options() {
		if o.Group != group {
			group = o.Group
			fmt.Fprintf(&b, "\n| %s | Default | What it is |\n|---|---|---|\n", group)
		}
		def := "–"
		if o.Default != "" {
			def = "`" + o.Default + "`"
		}
		fmt.Fprintf(&b, "| `--%s`<br>`%s` | %s (%s) | %s |\n", o.Name, EnvName(o.Name), def, o.Unit, strings.ReplaceAll(o.Help, "|", "\\|"))
	}
	return b.String()
}
