package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// stage is set in the process that does the work. Its value is a
// directory for temporary files.
const stage = "RELAYSIM_STAGE"

// prepare runs the program once more, in an environment in which the race
// detector reports every race. The detector reads its settings only when the
// process starts.
func prepare() int {
	dir, err := os.MkdirTemp("", "relaysim")
	if err != nil {
		fmt.Fprintln(os.Stderr, "relaysim:", err)
		return usage
	}
	defer os.RemoveAll(dir)
	executable, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "relaysim:", err)
		return usage
	}
	cmd := exec.Command(executable, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), stage+"="+dir)
	if engine.RaceBuild {
		cmd.Env = append(cmd.Env, "GORACE="+engine.GORACE(filepath.Join(dir, "race")))
	}
	// A terminal interrupts both, a kill only this one.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "relaysim:", err)
		return usage
	}
	go func() {
		for range signals {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
	}()
	if err := cmd.Wait(); err != nil {
		if code := cmd.ProcessState.ExitCode(); code > 0 {
			return code
		}
		fmt.Fprintln(os.Stderr, "relaysim:", err)
		return broken
	}
	return held
}
