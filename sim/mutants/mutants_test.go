package mutants

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"testing"
)

// A mutant that still applies may no longer build, because a type has changed. This
// test reports it immediately, not after half an hour of searching.
func TestMutantsBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("builds what the relay imports")
	}
	ms, err := Mutants()
	if err != nil {
		t.Fatal(err)
	}
	b := newBuilder(t)
	for _, m := range ms {
		files, err := m.Overlay(source)
		if err != nil {
			t.Error(err)
			continue
		}
		if err := b.check(path.Dir(m.File), files); err != nil {
			t.Errorf("mutant %s: %v", m.Name, err)
		}
	}
}

// builder type-checks packages of this module with some files replaced.
type builder struct {
	fset    *token.FileSet
	imports types.Importer
	sources map[string][]string  // by directory in the module
	parsed  map[string]*ast.File // without replacements
}

func newBuilder(t *testing.T) *builder {
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Export,Dir,GoFiles,Module", "./internal/...")
	cmd.Dir = "../.."
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	b := &builder{fset: token.NewFileSet(), sources: map[string][]string{}, parsed: map[string]*ast.File{}}
	exports := map[string]string{}
	for d := json.NewDecoder(out); ; {
		var p struct {
			ImportPath, Export, Dir string
			GoFiles                 []string
			Module                  *struct{ Main bool }
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if p.Module == nil || !p.Module.Main {
			continue
		}
		dir, err := filepath.Rel(root, p.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range p.GoFiles {
			name := path.Join(filepath.ToSlash(dir), f)
			b.sources[dir] = append(b.sources[dir], name)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	b.imports = importer.ForCompiler(b.fset, "gc", func(p string) (io.ReadCloser, error) {
		if exports[p] == "" {
			return nil, fmt.Errorf("no export data of %s", p)
		}
		return os.Open(exports[p])
	})
	return b
}

// check type-checks the package in dir with these files.
func (b *builder) check(dir string, replaced map[string]string) error {
	var files []*ast.File
	for name, text := range replaced {
		if path.Dir(name) == dir {
			f, err := parser.ParseFile(b.fset, name, text, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			files = append(files, f)
		}
	}
	for _, name := range b.sources[dir] {
		if replaced[name] != "" {
			continue
		}
		if b.parsed[name] == nil {
			f, err := parser.ParseFile(b.fset, filepath.Join("..", "..", name), nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			b.parsed[name] = f
		}
		files = append(files, b.parsed[name])
	}
	cfg := types.Config{Importer: b.imports}
	_, err := cfg.Check(dir, b.fset, files, nil)
	return err
}
