package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/golden"
	"github.com/pyrycode/pyrycode-relay/internal/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// command runs relayfault and returns its exit code and its output.
func command(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestUsageErrorsSayWhatToDo(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"cluster", "faults", "--kinds", "flood"}, `there is no fault "flood"; the faults are drain, kill`},
		{[]string{"cluster", "faults", "--ids", "0"}, "--ids must be 1 or more"},
		{[]string{"cluster", "faults", "--kinds", "kill-two"}, "the fault kill-two needs --relays 5"},
		{[]string{"cluster", "faults", "--kinds", "full-disk"}, "the fault full-disk needs --small-disks"},
		{[]string{"cluster", "faults", "--relay", "/nowhere/relay"}, "make build"},
		{[]string{"cluster", "bench", "--rounds", "0"}, "must be 1 or more"},
		{[]string{"soak", "--for", "1s"}, "--for 1s must be from"},
		{[]string{"soak", "--relay", "/nowhere/relay"}, "make build"},
		{[]string{"nonsense"}, "--help lists"},
	} {
		code, _, stderr := command(tt.args...)
		if code != load.ExitUsage || !strings.Contains(stderr, tt.want) {
			t.Errorf("relayfault %s: exit code %d, %q; want %d, containing %q", strings.Join(tt.args, " "), code, stderr, load.ExitUsage, tt.want)
		}
	}
}

func TestTheCommandLinesOnThePagesParse(t *testing.T) {
	golden.Commands(t, "relayfault", 5, func(args []string) error {
		_, err := cli.Parse(cli.Root("relayfault", "", io.Discard, commands()...), args)
		return err
	})
}
