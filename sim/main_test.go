package sim

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// child names what a copy of the test program is to do instead of testing:
// provoke data races, which would fail a test, or show its hashes.
const child = "SIM_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(child) {
	case "":
		goleak.VerifyTestMain(m)
	case "hashes":
		fmt.Print(hashes())
	case "ab":
		for _, s := range DetectPlantedRace(100) {
			fmt.Println(s.Seen)
		}
	case "canary":
		fmt.Println(Canary())
	case "reach":
		for _, s := range MeasureDetector() {
			fmt.Println(s.OK(), s)
		}
	}
}

// inChild runs this program again and returns what it prints.
func inChild(t *testing.T, what string, env ...string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), child+"="+what, "GORACE="+GORACE(filepath.Join(t.TempDir(), "race")))
	cmd.Env = append(cmd.Env, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", what, err, errs.String())
	}
	return out.String()
}

// hashes are the trace hashes of some seeds.
func hashes() string {
	var b strings.Builder
	for i := range len(worlds) * len(Strategies) {
		w, name := worlds[i/len(Strategies)], Strategies[i%len(Strategies)]
		x := Runner{World: w, Strategy: name}
		for _, seed := range []Seed{"1", "42", "1000000007", "da39a3ee5e6b4b0d3255bfef95601890afd80709"} {
			res, err := x.Seed(seed)
			if err != nil {
				return err.Error()
			}
			fmt.Fprintf(&b, "%s %s %s %d %016x\n", w.Name(), name, seed, res.Steps, res.Hash)
		}
	}
	return b.String()
}
