package daemon

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

func TestTheProtocolNamesEveryLimitAndReason(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		wire.HeaderServer, wire.HeaderVersion, wire.HeaderDevice, wire.HeaderUserAgent,
		wire.ReasonShuttingDown, wire.ReasonHeartbeat, wire.ReasonPhoneBacklog, wire.ReasonBinaryBacklog,
		wire.ReasonNoServer, wire.ReasonReclaimed, wire.ReasonServerInUse, wire.ReasonTooManyPhones,
	}
	for _, o := range Options() {
		switch o.Name {
		case "allowed-origins", "log-format", "log-level": // not limits
		default:
			if o.Group != "Limits" && o.Group != "Timers" {
				continue
			}
			want = append(want, "--"+o.Name)
		}
	}
	for _, w := range want {
		if !strings.Contains(string(page), "`"+w+"`") {
			t.Errorf("docs/protocol.md does not name `%s`", w)
		}
	}
}

func TestTheOperatorsPageHasTheOptions(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "operate.md"))
	if err != nil {
		t.Fatal(err)
	}
	if _, got, _ := strings.Cut(string(page), "<!-- options -->\n"); got != OptionsTable() {
		t.Errorf("docs/operate.md differs from the code; after <!-- options --> it must have:\n%s", OptionsTable())
	}
}

// Each threat names a test that exists.
func TestTheThreatModelNamesTestsThatExist(t *testing.T) {
	exist := make(map[string]bool)
	goFiles(t, func(name string, file *ast.File) {
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && strings.HasSuffix(name, "_test.go") {
				exist[f.Name.Name] = true
			}
		}
	})
	for _, doc := range []string{"security.md", "reliability.md"} {
		page, err := os.ReadFile(filepath.Join("..", "..", "docs", doc))
		if err != nil {
			t.Fatal(err)
		}
		named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllStringSubmatch(string(page), -1)
		if len(named) < 5 {
			t.Errorf("docs/%s names %d tests", doc, len(named))
		}
		for _, m := range named {
			if !exist[m[1]] {
				t.Errorf("docs/%s names %s, which does not exist", doc, m[1])
			}
		}
	}
}
