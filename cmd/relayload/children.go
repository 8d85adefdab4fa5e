package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// child is a process that this program starts and measures.
type child struct {
	name    string
	addr    string // its public listener
	private string // a relay's private listener
	cmd     *exec.Cmd

	log io.Writer // receives its output; nil: the output is discarded

	exited chan struct{} // closed when the process has ended
	how    error         // the result of Wait; valid after exited
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// startTimeout bounds the time until a child has printed its address.
const startTimeout = 10 * time.Second

// start runs a program on one processor and waits until it has printed its
// address. The relay prints it in its log.
func start(ctx context.Context, name, program string, args ...string) (*child, error) {
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	return startCmd(ctx, name, cmd)
}

func startCmd(ctx context.Context, name string, cmd *exec.Cmd) (*child, error) {
	c := &child{name: name, cmd: cmd}
	if err := c.start(ctx, startTimeout); err != nil {
		return nil, err
	}
	return c, nil
}

// start runs c.cmd and waits until it has printed its address, up to the given
// time.
func (c *child) start(ctx context.Context, within time.Duration) error {
	c.exited = make(chan struct{})
	if c.log == nil {
		c.log = io.Discard
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	c.cmd.Stdout, c.cmd.Stderr = w, w
	err = c.cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return err
	}
	go func() {
		c.how = c.cmd.Wait()
		close(c.exited)
	}()
	found := make(chan error, 1)
	go func() {
		defer r.Close()
		br := bufio.NewReader(io.TeeReader(r, c.log))
		var said strings.Builder
		for {
			line, err := br.ReadString('\n')
			if c.listens(strings.TrimSpace(line)) {
				found <- nil
				io.Copy(io.Discard, br)
				return
			}
			said.WriteString(line)
			if err != nil {
				found <- fmt.Errorf("%s did not start: %s", c.name, strings.TrimSpace(said.String()))
				return
			}
		}
	}()
	select {
	case err = <-found:
	case <-time.After(within):
		err = fmt.Errorf("%s did not print its address within %s", c.name, within)
	case <-ctx.Done():
		err = errInterrupted
	}
	if err != nil {
		c.end()
	}
	return err
}

var ready = regexp.MustCompile(`\bready\b.* listen=(\S+) metrics_listen=(\S+)`)

func (c *child) listens(line string) bool {
	if m := ready.FindStringSubmatch(line); m != nil {
		c.addr, c.private = m[1], m[2]
	} else if strings.HasPrefix(line, "127.0.0.1:") {
		c.addr = line
	}
	return c.addr != ""
}

// end terminates the process and waits for it.
func (c *child) end() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	late := time.AfterFunc(3*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	<-c.exited
}

// failed adds the child's name to err. If the child has ended, which can be the
// cause, it adds that too.
func (c *child) failed(err error) error {
	select {
	case <-c.exited:
		return fmt.Errorf("%s: %w; the process has ended: %v", c.name, err, c.how)
	case <-time.After(100 * time.Millisecond):
		return fmt.Errorf("%s: %w", c.name, err)
	}
}
