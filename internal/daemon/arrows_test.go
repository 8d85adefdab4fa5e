package daemon

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/pyrycode/pyrycode-relay"

// arrows has the imports between packages of this module that are allowed outside of
// tests. A package in a directory below one of these may import the same packages, and
// the others below it.
var arrows = map[string][]string{
	"cmd/pyrycode-relay": {"internal/cli", "internal/cluster", "internal/wire", "internal/daemon", "internal/config", "internal/install", "internal/status", "internal/access"},
	"cmd/relaysim":       {"sim", "sim/engine", "sim/mutants"},
	"cmd/relayload":      {"internal/bench", "internal/chart", "internal/cli", "internal/load", "internal/wstest"},
	"cmd/relayfault":     {"internal/chart", "internal/cli", "internal/load", "internal/wstest", "sim/history"},
	"internal/bench":     {},
	"internal/chart":     {},
	"internal/cli":       {},
	"internal/install":   {"internal/replacefile"},
	"internal/load":      {"internal/cli", "internal/rawio", "internal/wstest"},
	"internal/wstest":    {},
	"internal/rawio":     {},
	"internal/sched":     {},
	"internal/wire":      {"internal/sched"},
	"internal/network":   {},
	"internal/relay":     {"internal/wire", "internal/network", "internal/rawio", "internal/sched"},
	"internal/push":      {"internal/network", "internal/wire"},
	"internal/cluster":   {"internal/wire", "internal/relay", "internal/network"},
	"internal/access":    {"internal/network", "internal/relay", "internal/replacefile", "internal/wire"},
	"internal/config":    {"internal/cli", "internal/network", "internal/relay", "internal/cluster", "internal/push", "internal/access"},
	"internal/front":     {"internal/config", "internal/network", "internal/relay", "internal/sched"},
	"internal/status":    {"internal/network", "internal/relay", "internal/wire"},
	"internal/lifecycle": {"internal/relay"},
	"internal/daemon":    {"internal/config", "internal/front", "internal/lifecycle", "internal/status", "internal/relay", "internal/cluster", "internal/push", "internal/access", "internal/network", "internal/replacefile", "internal/wire"},
	"internal/certtest":  {}, // of tests only
	"sim":                {"internal/relay", "internal/wire", "sim/engine", "sim/relayruntime", "sim/relayworld", "sim/clusterworld", "sim/frontworld"},
	"sim/engine":         {},
	"sim/history":        {"sim/engine"},
	"sim/mutants":        {},
	"sim/relayruntime":   {"internal/relay", "internal/wire", "sim/engine"},
	"sim/relayworld":     {"internal/access", "internal/relay", "internal/wire", "internal/wstest", "sim/engine", "sim/history", "sim/relayruntime"},
	"sim/clusterworld":   {"internal/cluster", "internal/relay", "internal/wire", "sim/engine", "sim/history", "sim/relayruntime", "sim/relayworld"},
	"sim/frontworld":     {"internal/config", "internal/front", "internal/lifecycle", "internal/relay", "sim/engine", "sim/relayruntime"},
	"internal/golden":    {},

	"internal/replacefile": {},

	"internal/cluster/clustertest": {"internal/cluster", "internal/relay"},                       // of tests only
	"internal/cluster/etcdtest":    {"internal/cluster", "internal/certtest", "internal/wstest"}, // of tests only
}

// goFiles calls f with every Go file below the root of the module, and its
// path from there.
func goFiles(t *testing.T, f func(name string, file *ast.File)) {
	t.Helper()
	root := filepath.Join("..", "..")
	set := token.NewFileSet()
	seen := 0
	for _, top := range []string{"cmd", "internal", "sim"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(at string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(at) != ".go" {
				if err == nil && d.IsDir() && d.Name() == "testdata" {
					return filepath.SkipDir
				}
				return err
			}
			file, err := parser.ParseFile(set, at, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(root, at)
			if err == nil {
				seen++
				f(filepath.ToSlash(name), file)
			}
			return err
		})
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if seen < 20 {
		t.Fatalf("only %d Go files found", seen)
	}
}

// above returns the entry of arrows to which dir belongs.
func above(dir string) (string, bool) {
	for ; dir != "."; dir = path.Dir(dir) {
		if _, ok := arrows[dir]; ok {
			return dir, true
		}
	}
	return "", false
}

func TestImportArrowsHold(t *testing.T) {
	goFiles(t, func(name string, file *ast.File) {
		if strings.HasSuffix(name, "_test.go") {
			return
		}
		home, ok := above(path.Dir(name))
		if !ok {
			t.Errorf("%s: package %s is not in the table of arrows", name, path.Dir(name))
			return
		}
		for _, spec := range file.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			own, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				if (home == "internal/wire" || home == "sim/engine") && strings.Contains(strings.Split(imported, "/")[0], ".") {
					t.Errorf("%s imports %s; it may import the standard library only", name, imported)
				}
				continue
			}
			target, ok := above(own)
			if !ok || target != home && !slices.Contains(arrows[home], target) {
				t.Errorf("%s imports %s; of this module it may import %v", name, own, arrows[home])
			}
		}
	})
}

// waits has the names of functions that wait or tell the time without the simulator.
var waits = map[string][]string{
	"sync": {"Cond", "NewCond", "WaitGroup"},
	"time": {"Sleep", "Now", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"},
}

// Code of internal/relay, internal/cluster and internal/lifecycle waits on a socket, at a
// gate or on a lock of Runtime.NewLock, starts tasks with Runtime.Go, and gets the time from Runtime.Clock.
// Otherwise the simulator cannot decide what happens next. The exceptions are the adapter
// of real sockets, the functions in mayAll, and the gate of real goroutines.
func TestRelayWaitsOnlyWhereTheSimulatorSees(t *testing.T) {
	goFiles(t, func(name string, file *ast.File) {
		base := path.Base(name)
		inRelay := path.Dir(name) == "internal/relay" && !strings.HasPrefix(base, "socket_")
		inNode := path.Dir(name) == "internal/cluster" || path.Dir(name) == "internal/lifecycle"
		if !inRelay && !inNode || strings.HasSuffix(base, "_test.go") {
			return
		}
		for _, d := range file.Decls {
			if mayWait(d) {
				continue
			}
			ast.Inspect(d, func(n ast.Node) bool {
				if what := hidden(n); what != "" {
					t.Errorf("%s: %s has %s", name, declared(d), what)
				}
				return true
			})
		}
	})
}

// mayAll has the functions to which hidden does not apply: withDefaults sets the real
// implementations, and the methods of prometheus.Collector get a channel from Prometheus.
var mayAll = []string{"withDefaults", "WithDefaults", "Describe", "Collect"}

// mayWait reports whether hidden does not apply to d.
func mayWait(d ast.Decl) bool {
	const realGate = "channelGate"
	switch d := d.(type) {
	case *ast.FuncDecl:
		of := ""
		if d.Recv != nil {
			if id, ok := d.Recv.List[0].Type.(*ast.Ident); ok {
				of = id.Name
			}
		}
		return of == realGate || slices.Contains(mayAll, d.Name.Name)
	case *ast.GenDecl:
		spec, ok := d.Specs[0].(*ast.TypeSpec)
		return ok && spec.Name.Name == realGate
	}
	return false
}

// hidden returns the part of n that the simulator does not see, or "".
func hidden(n ast.Node) string {
	switch n := n.(type) {
	case *ast.GoStmt:
		return "a go statement"
	case *ast.SelectStmt:
		return "a select"
	case *ast.SendStmt:
		return "a send"
	case *ast.UnaryExpr:
		if n.Op == token.ARROW {
			return "a receive"
		}
	case *ast.ChanType:
		return "a channel"
	case *ast.SelectorExpr:
		if pkg, ok := n.X.(*ast.Ident); ok && slices.Contains(waits[pkg.Name], n.Sel.Name) {
			return pkg.Name + "." + n.Sel.Name
		}
	}
	return ""
}

func declared(d ast.Decl) string {
	if f, ok := d.(*ast.FuncDecl); ok {
		return f.Name.Name
	}
	return "a declaration"
}
