package daemon

import (
	"go/ast"
	"go/types"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/golden"
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
	for _, o := range config.Options() {
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

// The protocol page has every code and every reason of closes.
func TestTheProtocolNamesEveryClose(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	page, seen := string(text), 0
	named := func(where string, e ast.Expr) {
		for _, reason := range literal(e) {
			if seen++; reason != "" && !strings.Contains(page, "`"+reason+"`") {
				t.Errorf("%s closes with %q, which docs/protocol.md does not name", where, reason)
			}
		}
	}
	goFiles(t, func(name string, file *ast.File) {
		if strings.HasSuffix(name, "_test.go") || !slices.Contains([]string{"internal/relay", "internal/cluster", "internal/wire"}, path.Dir(name)) {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr: // p.fail(code, "reason")
				if f, ok := n.Fun.(*ast.SelectorExpr); ok && slices.Contains([]string{"fail", "refuse", "evict", "close", "Close"}, f.Sel.Name) && len(n.Args) > 1 {
					named(name, n.Args[1])
				}
			case *ast.ValueSpec: // const reasonX = "reason"
				for i, v := range n.Values {
					if strings.HasPrefix(strings.ToLower(n.Names[i].Name), "reason") {
						named(name, v)
					}
				}
			case *ast.CompositeLit: // &ProtocolError{code, "reason"}
				if id, ok := n.Type.(*ast.Ident); ok && id.Name == "ProtocolError" && len(n.Elts) > 1 {
					named(name, n.Elts[1])
				}
			}
			return true
		})
	})
	if seen < 25 {
		t.Errorf("only %d reasons seen", seen)
	}
	for code := 1000; code < 5000; code++ {
		if label := wire.Label(wire.CloseCode(code)); label != "other" && !regexp.MustCompile(`\b`+label+`\b`).MatchString(page[strings.Index(page, "## 12."):]) {
			t.Errorf("section 12 does not name the code %s", label)
		}
	}
}

// Each test, file and make target that a page names exists.
func TestThePagesNameWhatExists(t *testing.T) {
	exist := make(map[string]bool)
	goFiles(t, func(name string, file *ast.File) {
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && strings.HasSuffix(name, "_test.go") {
				exist[f.Name.Name] = true
			}
		}
	})
	makefile, err := os.ReadFile(filepath.Join("..", "..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	target := func(name string) bool {
		return regexp.MustCompile(`(?m)^(?:[a-z/ -]+ )?` + regexp.QuoteMeta(name) + `(?: [a-z/ -]+)?:`).Match(makefile)
	}
	seen := make(map[string]int)
	for page, text := range golden.Pages(t) {
		check := func(kind, pattern string, exists func(name string) bool) {
			for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
				if seen[kind]++; !exists(m[1]) {
					t.Errorf("%s names the %s %s, which does not exist", page, kind, m[1])
				}
			}
		}
		check("test", "`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]+)`", func(name string) bool { return exist[name] })
		check("file", "`((?:cmd|internal|sim|docs|\\.ci)/[A-Za-z0-9_/.-]+\\.(?:go|s|txt|md|yml|html|svg|run|json|cfg))`", func(name string) bool {
			_, err := os.Stat(filepath.Join("..", "..", filepath.FromSlash(name)))
			return err == nil
		})
		check("make target", "(?:`|    |\\$ )make ([a-z][a-z/-]*)", target)
	}
	for kind, least := range map[string]int{"test": 250, "file": 30, "make target": 40} {
		if seen[kind] < least {
			t.Errorf("the pages name only %d times a %s; want %d", seen[kind], kind, least)
		}
	}
}

// Each word of the glossary has an identifier that exists, and a link to its file.
func TestTheGlossaryLinksToTheIdentifiers(t *testing.T) {
	const glossary = "docs/glossary.md"
	file := make(map[string]string) // by package directory, dot, name; with the type before a field or method
	goFiles(t, func(name string, f *ast.File) {
		dir := path.Dir(name) + "."
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				file[dir+receiver(d)+d.Name.Name] = name
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					for _, id := range namesOf(spec) {
						file[dir+id] = name
					}
				}
			}
		}
	})
	b, err := os.ReadFile(filepath.Join("..", "..", glossary))
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	row := regexp.MustCompile("(?m)^(\\| [^|]+ \\| [^|]+\\. (?:\\([^|]*\\) )?\\| )\\[?`([^`]+)`(?:\\]\\([^)]*\\))?( \\|)$")
	rows := 0
	want := row.ReplaceAllStringFunc(page, func(line string) string {
		m := row.FindStringSubmatch(line)
		if rows++; file[m[2]] == "" {
			t.Errorf("%s: the identifier of this row does not exist: %s", glossary, line)
			return line
		}
		return m[1] + "[`" + m[2] + "`](../" + file[m[2]] + ")" + m[3]
	})
	// Each table has a row of headings and a row |---|, which does not begin with "| ".
	if lines := strings.Count(page, "\n| ") - strings.Count(page, "\n| Word |"); rows != lines || lines == 0 {
		t.Errorf("%d of %d rows of %s have a word, a sentence and an identifier", rows, lines, glossary)
	}
	golden.File(t, glossary, want)
}

// The design page names every package, and every file of internal/relay. A name can be a
// pattern, such as socket*.go.
func TestTheDesignPageNamesEveryPackage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "design.md"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(string(page), -1) {
		names = append(names, m[1])
	}
	seen := make(map[string]bool)
	goFiles(t, func(file string, _ *ast.File) {
		want := []string{path.Dir(file)}
		if path.Dir(file) == "internal/relay" && !strings.HasSuffix(file, "_test.go") {
			want = append(want, path.Base(file))
		}
		for _, w := range want {
			named := slices.ContainsFunc(names, func(n string) bool { ok, err := path.Match(n, w); return ok && err == nil })
			if !named && !seen[w] {
				t.Errorf("docs/design.md does not name `%s`: add it to the table of packages, or to that of files", w)
			}
			seen[w] = true
		}
	})
}

// namesOf returns the names that a declaration declares, with the fields of a struct.
func namesOf(spec ast.Spec) (names []string) {
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		names = append(names, spec.Name.Name)
		if st, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range st.Fields.List {
				for _, n := range f.Names {
					names = append(names, spec.Name.Name+"."+n.Name)
				}
			}
		}
	case *ast.ValueSpec:
		for _, n := range spec.Names {
			names = append(names, n.Name)
		}
	}
	return names
}

// receiver returns the name of a method's type and a dot, or nothing for a function.
func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(types.ExprString(f.Recv.List[0].Type), "*"), "[")
	return name + "."
}

// anchors returns the headings of a page in the form of links.
func anchors(page string) map[string]bool {
	all := make(map[string]bool)
	code := false
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "```") {
			code = !code
		}
		if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") && !code {
			heading = regexp.MustCompile(`[^\p{L}\p{N}_ -]`).ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), "")
			all[strings.ReplaceAll(heading, " ", "-")] = true
		}
	}
	return all
}

// A link from one page to another, or to a place on one, leads there.
func TestTheLinksOnThePagesLead(t *testing.T) {
	root, seen := filepath.Join("..", ".."), 0
	var pages []string
	for _, glob := range []string{"*.md", "docs/*.md", "docs/*/*.md", "docs/*/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, glob))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	read := func(name string) string {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
	for _, page := range pages {
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(read(page), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			seen++
			file, anchor, _ := strings.Cut(m[1], "#")
			to := page
			if file != "" {
				to = filepath.Join(filepath.Dir(page), filepath.FromSlash(file))
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			} else if anchor != "" && filepath.Ext(to) == ".md" && !anchors(read(to))[anchor] {
				t.Errorf("%s links to %s; there is no such heading", page, m[1])
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d links seen on %d pages", seen, len(pages))
	}
}

// A metric that a page names must exist. Tests of the exporter check the metrics of
// probe.
func TestTheMetricsOnThePagesExist(t *testing.T) {
	families := gathered(t)
	exist := func(name string) bool {
		name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count"), "_sum")
		return slices.ContainsFunc(families, func(f *dto.MetricFamily) bool {
			return f.GetName() == name || strings.HasSuffix(name, "_") && strings.HasPrefix(f.GetName(), name)
		})
	}
	pages, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, path := range append(pages, filepath.Join("..", "..", "README.md")) {
		page, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`\bpyrycode_relay_[a-z_]+`).FindAllString(string(page), -1) {
			seen++
			if !exist(name) && !strings.HasPrefix(name, "pyrycode_relay_probe") {
				t.Errorf("%s names %s, which does not exist", filepath.Base(path), name)
			}
		}
	}
	if seen < 50 {
		t.Errorf("only %d names seen", seen)
	}
}
