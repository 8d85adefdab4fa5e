package load

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// Child is a process that this program starts and measures.
type Child struct {
	*wstest.Process
	Name    string
	Addr    string // its public listener
	Private string // a relay's private listener
}

// StartTimeout bounds the time until a child has printed its address.
const StartTimeout = 10 * time.Second

// Start runs a program on one processor and waits until it has printed its
// address. The relay prints it in its log.
func Start(ctx context.Context, name, program string, args ...string) (*Child, error) {
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	return StartCommand(ctx, name, cmd, io.Discard, StartTimeout)
}

var readyLine = regexp.MustCompile(`\bready\b.* listen=(\S+) metrics_listen=(\S+)`)

// StartCommand runs cmd and waits until it has printed its address, up to the given
// time. Its output goes to log.
func StartCommand(ctx context.Context, name string, cmd *exec.Cmd, log io.Writer, within time.Duration) (*Child, error) {
	c := &Child{Name: name}
	var err error
	c.Process, err = wstest.StartProcess(ctx, name, cmd, log, within, func(line string) bool {
		if m := readyLine.FindStringSubmatch(line); m != nil {
			c.Addr, c.Private = m[1], m[2]
		} else if strings.HasPrefix(line, "127.0.0.1:") {
			c.Addr = line
		}
		return c.Addr != ""
	})
	if ctx.Err() != nil {
		err = ErrInterrupted
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Failed adds the child's name to err. If the child has ended, which can be the
// cause, it adds that too.
func (c *Child) Failed(err error) error {
	select {
	case <-c.Exited():
		return fmt.Errorf("%s: %w; the process has ended: %v", c.Name, err, c.Wait())
	case <-time.After(100 * time.Millisecond):
		return fmt.Errorf("%s: %w", c.Name, err)
	}
}

// VersionOf returns the version line of a relay program, or its path if it prints
// none.
func VersionOf(ctx context.Context, relay string) string {
	out, err := exec.CommandContext(ctx, relay, "version").Output()
	if err != nil {
		return relay
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
