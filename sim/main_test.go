package sim

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"go.uber.org/goleak"
)

// child makes a copy of the test program print its hashes instead of running tests.
const child = "SIM_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(child) {
	case "":
		goleak.VerifyTestMain(m)
	case "hashes":
		fmt.Print(hashes())
	}
}

// inChild runs this program again and returns its output.
func inChild(t *testing.T, what string, env ...string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), child+"="+what, "GORACE="+engine.GORACE(filepath.Join(t.TempDir(), "race")))
	cmd.Env = append(cmd.Env, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", what, err, errs.String())
	}
	return out.String()
}

// hashes returns the trace hashes of a few seeds.
func hashes() string {
	var b strings.Builder
	for i := range len(Worlds()) * len(engine.Strategies) {
		w, name := Worlds()[i/len(engine.Strategies)], engine.Strategies[i%len(engine.Strategies)]
		x := engine.Runner{World: w, Strategy: name}
		for _, seed := range []engine.Seed{"1", "42", "1000000007", "da39a3ee5e6b4b0d3255bfef95601890afd80709"} {
			res, err := x.Seed(seed)
			if err != nil {
				return err.Error()
			}
			fmt.Fprintf(&b, "%s %s %s %d %016x\n", w.Name(), name, seed, res.Steps, res.Hash)
		}
	}
	return b.String()
}
