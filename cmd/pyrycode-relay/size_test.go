package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// If a program can call a method by a name that it computes, as package text/template does,
// the linker must keep every exported method of every type: 2 MB of the plain program.
func TestTheLinkerMayRemoveMethods(t *testing.T) {
	if testing.Short() {
		t.Skip("it links the program")
	}
	cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-dumpdep", "-o", filepath.Join(t.TempDir(), "relay"), ".")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%.2000s", err, out)
	}
	if !strings.Contains(string(out), "main.main -> ") {
		t.Fatal("the linker prints no dependencies")
	}
	for line := range strings.Lines(string(out)) {
		if caller, _, ok := strings.Cut(line, " <ReflectMethod>"); ok {
			t.Errorf("%s calls methods by name; go build -ldflags=-dumpdep shows what calls it", caller)
		}
	}
}
