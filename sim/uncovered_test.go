package sim

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// function is a declared function of this module.
type function struct {
	name        string // its file and its name, with its type
	begin, last int    // lines
}

// functionsOf returns the functions of a file of this module.
func functionsOf(t *testing.T, file string) (all []function) {
	t.Helper()
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, filepath.Join("..", file), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range parsed.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		name := f.Name.Name
		if f.Recv != nil {
			of, _, _ := strings.Cut(strings.TrimPrefix(types.ExprString(f.Recv.List[0].Type), "*"), "[")
			name = of + "." + name
		}
		all = append(all, function{file + " " + name, set.Position(f.Pos()).Line, set.Position(f.End()).Line})
	}
	return all
}

// explained returns the entries of uncovered.txt.
func explained(t *testing.T) map[string]bool {
	t.Helper()
	b, err := os.ReadFile("testdata/uncovered.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			if all[line] {
				t.Errorf("testdata/uncovered.txt has %q twice", line)
			}
			all[line] = true
		}
	}
	return all
}

// Each entry of uncovered.txt is a function or, without a name, a file of this module.
func TestTheListOfUncoveredFunctionsNamesFunctions(t *testing.T) {
	for _, entry := range slices.Sorted(maps.Keys(explained(t))) {
		file, name, one := strings.Cut(entry, " ")
		if _, err := os.Stat(filepath.Join("..", file)); err != nil {
			t.Errorf("testdata/uncovered.txt: %v", err)
			continue
		}
		if one && !slices.ContainsFunc(functionsOf(t, file), func(f function) bool { return f.name == entry }) {
			t.Errorf("testdata/uncovered.txt: %s has no function %s", file, name)
		}
	}
}

// make sim-coverage sets SIM_COVERAGE to the profile of its sweeps. A function with
// statements that they do not run must have an entry, and each entry such a function.
func TestUncoveredFunctionsAreExplained(t *testing.T) {
	profile := os.Getenv("SIM_COVERAGE")
	if profile == "" {
		t.Skip("SIM_COVERAGE names no profile; make sim-coverage makes one")
	}
	entries, uncovered := explained(t), uncoveredFunctions(t, profile)
	for _, name := range slices.Sorted(maps.Keys(uncovered)) {
		if file, _, _ := strings.Cut(name, " "); !entries[name] && !entries[file] {
			t.Errorf("%s has %d statements that no seed runs: reach them, remove them, or explain them in sim/testdata/uncovered.txt", name, uncovered[name])
		}
	}
	for entry := range entries {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(uncovered)), func(name string) bool {
			return name == entry || strings.HasPrefix(name, entry+" ")
		}) {
			t.Logf("all statements of %s run: remove it from sim/testdata/uncovered.txt", entry)
		}
	}
}

// uncoveredFunctions returns the number of statements of each function that the profile
// says did not run.
func uncoveredFunctions(t *testing.T, profile string) map[string]int {
	t.Helper()
	f, err := os.Open(profile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	type block struct {
		file       string
		begin, end int
	}
	missed, functions := map[block]int{}, map[string][]function{}
	ran := map[block]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		at, rest, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "github.com/pyrycode/pyrycode-relay/"), ":")
		var from, to, column, statements, count int
		if _, err := fmt.Sscanf(rest, "%d.%d,%d.%d %d %d", &from, &column, &to, &column, &statements, &count); !ok || err != nil {
			continue
		}
		b := block{at, from*1000 + column, to} // two blocks may begin in one line
		missed[b] = statements
		ran[b] = ran[b] || count > 0
		if functions[at] == nil {
			functions[at] = functionsOf(t, at)
		}
	}
	all := map[string]int{}
	for b, n := range missed {
		if ran[b] || n == 0 {
			continue
		}
		for _, f := range functions[b.file] {
			if f.begin <= b.begin/1000 && b.begin/1000 <= f.last {
				all[f.name] += n
			}
		}
	}
	return all
}
