// Package mutants plants bugs in the relay. Each text file is a patch of one source file,
// with the invariants that should notice the bug. The command relaysim mutants builds
// each mutant, checks that the simulator finds it, and writes the results for a world to
// a page, kills-<world>.md. The command relaysim demo shows one mutant step by step.
package mutants

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

//go:embed *.txt
var mutantFiles embed.FS

// A Mutant is one bug in the relay, as a patch.
type Mutant struct {
	Name          string
	Class         string   // the bug, as a clause
	Catch         []string // the invariants that should notice the bug
	RegressionRun string   // name of a run in testdata in which the bug shows
	Pair          string   // mutants of other checks that can hide this bug, or that it hides
	Race          bool     // only the race detector can notice the bug
	Survives      string   // the reason why no check can notice the bug
	Note          string
	World         string // name of the world that runs the patched code
	File          string // the patched file
	hunks         []hunk
}

type hunk struct{ old, new string }

// Mutants returns all mutants, sorted by name.
func Mutants() ([]*Mutant, error) {
	names, err := fs.Glob(mutantFiles, "*.txt")
	if err != nil {
		return nil, err
	}
	var ms []*Mutant
	for _, name := range names {
		b, err := mutantFiles.ReadFile(name)
		if err != nil {
			return nil, err
		}
		m, err := parseMutant(strings.TrimSuffix(path.Base(name), ".txt"), string(b))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		ms = append(ms, m)
	}
	return ms, nil
}

// parseMutant parses a file: lines of a key and a value, and then hunks. A hunk is a line @@,
// the old lines with a - before each, and the new lines with a + before each.
func parseMutant(name, text string) (*Mutant, error) {
	m := &Mutant{Name: name, World: "registry", File: "internal/relay/registry.go"}
	texts := map[string]*string{"class": &m.Class, "regression": &m.RegressionRun, "pair": &m.Pair,
		"survives": &m.Survives, "note": &m.Note, "world": &m.World, "file": &m.File}
	for n, l := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if l == "@@" {
			m.hunks = append(m.hunks, hunk{})
			continue
		}
		if k := len(m.hunks) - 1; k >= 0 {
			switch {
			case strings.HasPrefix(l, "-"):
				m.hunks[k].old += l[1:] + "\n"
			case strings.HasPrefix(l, "+"):
				m.hunks[k].new += l[1:] + "\n"
			default:
				return nil, fmt.Errorf("line %d: want - or +, have %q", n+1, l)
			}
			continue
		}
		switch key, value, _ := strings.Cut(l, " "); {
		case key == "catch":
			m.Catch = strings.Split(value, ", ")
		case key == "race":
			m.Race = true
		case texts[key] != nil:
			*texts[key] = value
		default:
			return nil, fmt.Errorf("line %d: unknown key %q", n+1, key)
		}
	}
	if len(m.hunks) == 0 || m.Class == "" || len(m.Catch) == 0 {
		return nil, fmt.Errorf("want a class, a catch and a hunk")
	}
	return m, nil
}

// Apply patches the source. The old text of each hunk must occur exactly once. One hunk must
// contain the marker REACHED, which tells a mutant with code that never runs from a mutant that
// no check notices.
func (m *Mutant) Apply(src string) (string, error) {
	marked := false
	for i, h := range m.hunks {
		old, new := strings.TrimSuffix(h.old, "\n"), strings.TrimSuffix(h.new, "\n")
		if n := strings.Count(src, old); n != 1 {
			return "", fmt.Errorf("mutant %s, hunk %d: the source contains its text %d times; want once", m.Name, i+1, n)
		}
		marked = marked || strings.Contains(new, "REACHED") || strings.Contains(new, "reach()")
		src = strings.Replace(src, old, strings.ReplaceAll(new, "REACHED", "reach()"), 1)
	}
	if !marked {
		return "", fmt.Errorf("mutant %s has no marker", m.Name)
	}
	return src, nil
}

// Diff returns the lines that the mutant removes, each after "-", and the lines that it adds,
// each after "+".
func (m *Mutant) Diff() string {
	var b strings.Builder
	for i, h := range m.hunks {
		if i > 0 {
			b.WriteString("\n")
		}
		for line := range strings.Lines(h.old) {
			b.WriteString("-" + line)
		}
		for line := range strings.Lines(strings.ReplaceAll(h.new, "REACHED", "reach()")) {
			b.WriteString("+" + line)
		}
	}
	return b.String()
}

// Overlay returns the contents of the files that go build -overlay must replace to build the
// mutant, by their paths in the module. read returns the source of a file.
func (m *Mutant) Overlay(read func(path string) (string, error)) (map[string]string, error) {
	src, err := read(m.File)
	if err != nil {
		return nil, err
	}
	if src, err = m.Apply(src); err != nil {
		return nil, err
	}
	pkg := path.Base(path.Dir(m.File))
	return map[string]string{
		m.File: src,
		path.Join(path.Dir(m.File), "zz_mutant.go"): "package " + pkg + `

var reached int

// reach counts how often the code of the mutant runs.
//
//go:norace
func reach() bool { reached++; return false }

// Reached returns the count of reach.
//
//go:norace
func Reached() int { return reached }
`,
		"sim/mutants/marker.go": `package mutants

import mutated "github.com/pyrycode/pyrycode-relay/` + path.Dir(m.File) + `"

// Hits returns how often the code of the mutant ran.
func Hits() int { return mutated.Reached() }
`,
	}, nil
}
