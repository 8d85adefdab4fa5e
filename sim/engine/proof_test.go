package engine

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// task names what a copy of the test program is to do instead of testing:
// provoke data races, which would fail a test.
const task = "ENGINE_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(task) {
	case "":
		goleak.VerifyTestMain(m)
	case "ab":
		for _, s := range DetectPlantedRace(100) {
			fmt.Println(s.Seen)
		}
	case "canary":
		fmt.Println(Canary())
	case "stacks":
		x := Runner{World: PlantedRace, Trace: true}
		for n := range 20 {
			res, err := x.Seed(Seed(fmt.Sprint(n + 1)))
			if err != nil || res.Race == nil {
				continue
			}
			fmt.Println("steps", res.Steps, "step", res.Failure.Step, "task", res.Failure.Task)
			fmt.Println(res.Race.Stacks)
			fmt.Println(strings.Contains(HTML(res), "Previous write by task"))
			return
		}
	case "edges":
		showEdges()
	case "reach":
		for _, s := range MeasureDetector() {
			fmt.Println(s.OK(), s)
		}
	}
}

// runChild runs this program again and returns what it prints.
func runChild(t *testing.T, what string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), task+"="+what, "GORACE="+GORACE(filepath.Join(t.TempDir(), "race")))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", what, err, errs.String())
	}
	return out.String()
}

// Hand-overs that the detector can see leave it nothing to find. This
// fails if the hiding is removed.
func TestHiddenHandOversShowRacesAndPlainOnesDoNot(t *testing.T) {
	if !RaceBuild {
		t.Skip("needs the race detector")
	}
	got := strings.Fields(runChild(t, "ab"))
	if !slices.Equal(got, []string{"100", "0"}) {
		t.Errorf("seen in %v of 100 seeds, hidden and plain; want 100 and 0", got)
	}
}

func TestTheDetectorRemembersLongEnough(t *testing.T) {
	if !RaceBuild {
		t.Skip("needs the race detector")
	}
	out := strings.TrimSpace(runChild(t, "reach"))
	if len(out) == 0 {
		t.Fatal("no measurement")
	}
	for _, l := range strings.Split(out, "\n") {
		if !strings.HasPrefix(l, "true ") {
			t.Error(l)
		}
	}
}

func TestCanaryIsCaught(t *testing.T) {
	if got := strings.TrimSpace(runChild(t, "canary")); got != "<nil>" {
		t.Error(got)
	}
}

func TestTornUpdateShrinksToItsCore(t *testing.T) {
	s := Sweep{Runner: Runner{World: PlantedUpdate}, From: 1, To: 50}
	_, res, err := s.Run()
	if err != nil || res == nil {
		t.Fatalf("nothing found: %v", err)
	}
	rep := s.Explain(res, 5*time.Second)
	if rep.Final.Signature() != "update" || rep.Run.Ops() != 2 || rep.Run.Switches() > 2 {
		t.Errorf("shrunk to %d operations and %d switches, signature %q; want 2, at most 2, update\n%s",
			rep.Run.Ops(), rep.Run.Switches(), rep.Final.Signature(), rep.Run)
	}
	if rep.Matter < 0 || rep.Run.Lines[rep.Matter].At == "" {
		t.Errorf("no switch is said to matter:\n%s", rep.Text())
	}
	back, err := ParsePlan(rep.Text(), PlantedUpdate)
	if err != nil {
		t.Fatal(err)
	}
	if again := s.Replay(back); again.Signature() != "update" {
		t.Errorf("the artefact replays as %q; want update\n%s", again.Signature(), rep.Text())
	}
	if page := HTML(rep.Final); !strings.Contains(page, `class="bad"`) || !strings.Contains(page, "</html>") || strings.Contains(page, "src=") {
		t.Errorf("the page shows no failing step, or needs more than itself")
	}
}
