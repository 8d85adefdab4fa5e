package wstest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Log is a buffer in memory. Its methods may be called concurrently.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String returns all bytes that have been written.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Process is a child process.
type Process struct {
	Cmd    *exec.Cmd
	exited chan struct{}
	err    error // the result of Wait; valid after exited
}

// StartProcess starts cmd and copies its output, including standard error, to log. It
// returns when ready has returned true for a line of the output. If no line is ready
// within the given time, or if the process or ctx ends first, it ends the process and
// returns an error that begins with name.
func StartProcess(ctx context.Context, name string, cmd *exec.Cmd, log io.Writer, within time.Duration, ready func(line string) bool) (*Process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	p := &Process{Cmd: cmd, exited: make(chan struct{})}
	found, read := make(chan error, 1), make(chan struct{})
	go func() {
		p.err = cmd.Wait()
		_ = r.SetReadDeadline(time.Now().Add(time.Second)) // its own children can hold the pipe
		<-read
		close(p.exited)
	}()
	go func() {
		defer close(read)
		defer r.Close()
		br := bufio.NewReader(io.TeeReader(r, log))
		var said strings.Builder
		for {
			line, err := br.ReadString('\n')
			if ready(strings.TrimSpace(line)) {
				found <- nil
				_, _ = io.Copy(io.Discard, br)
				return
			}
			said.WriteString(line)
			if err != nil {
				found <- fmt.Errorf("%s did not start: %s", name, strings.TrimSpace(said.String()))
				return
			}
		}
	}()
	select {
	case err = <-found:
	case <-time.After(within):
		err = fmt.Errorf("%s was not ready within %s", name, within)
	case <-ctx.Done():
		err = fmt.Errorf("%s: %w", name, ctx.Err())
	}
	if err != nil {
		p.End()
		return nil, err
	}
	return p, nil
}

// Exited returns a channel that is closed when the process has ended and its output
// has been read.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Wait waits until the process has ended, and returns the result of its exec.Cmd.
func (p *Process) Wait() error {
	<-p.exited
	return p.err
}

// Pid returns the process id.
func (p *Process) Pid() int { return p.Cmd.Process.Pid }

// Signal sends a signal to the process.
func (p *Process) Signal(s os.Signal) error { return p.Cmd.Process.Signal(s) }

// End terminates the process, kills it if it has not ended after three seconds, and
// waits for it.
func (p *Process) End() {
	_ = p.Signal(syscall.SIGTERM)
	late := time.AfterFunc(3*time.Second, func() { _ = p.Cmd.Process.Kill() })
	defer late.Stop()
	<-p.exited
}
