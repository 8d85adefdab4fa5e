package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// asCommand is an environment variable. If it is set, the test binary runs as the
// command, for tests that need it in a separate process.
const asCommand = "BE_THE_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// patience is the limit of every wait in these tests. A test that passes never reaches
// it.
const patience = 10 * time.Second

// outcome is the result of one run of the command.
type outcome struct {
	code           int
	stdout, stderr string
}

// call runs the command in this process and waits for its end.
func call(ctx context.Context, environ []string, args ...string) outcome {
	var stdout, stderr strings.Builder
	code := run(ctx, args, environ, &stdout, &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

// child starts the command in a separate process. The scanner reads its output.
func child(t *testing.T, args ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = []string{asCommand + "=1", "GORACE=atexit_sleep_ms=0"} // do not wait a second for reports of the race detector
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout // one stream is enough: serve writes to the one, probe to the other
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd, bufio.NewScanner(out)
}

// served is a running relay that the command serve has started.
type served struct {
	public, private string // host:port
}

// readyLine reads the log up to the line that says ready, and returns the addresses in
// it.
func readyLine(t *testing.T, lines *bufio.Scanner) served {
	t.Helper()
	for lines.Scan() {
		var l struct {
			Msg     string `json:"msg"`
			Public  string `json:"listen"`
			Private string `json:"metrics_listen"`
		}
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatalf("log line %q: %v", lines.Text(), err)
		}
		if l.Msg == "ready" {
			return served{l.Public, l.Private}
		}
	}
	t.Fatal("no ready line")
	return served{}
}

var onFreePorts = []string{"serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--log-format", "json"}

// serveHere runs a relay in this process until the test ends.
func serveHere(t *testing.T, args ...string) served {
	t.Helper()
	return serveWith(t, nil, args...)
}

// serveWith is serveHere with an environment.
func serveWith(t *testing.T, environ []string, args ...string) served {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log, w := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, append(onFreePorts, args...), environ, io.Discard, w)
		w.Close()
	}()
	lines := bufio.NewScanner(log)
	s := readyLine(t, lines)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, log)
	}()
	t.Cleanup(func() {
		cancel()
		if got := <-code; got != 0 {
			t.Errorf("serve returned %d; want 0", got)
		}
		<-drained
	})
	return s
}

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}

// page returns the body of a page for operators.
func (s served) page(t *testing.T, path string) string {
	t.Helper()
	resp, err := client.Get("http://" + s.private + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// until waits until the gauges show binaries, phones and slots in grace.
func (s served) until(t *testing.T, binaries, phones, inGrace string) {
	t.Helper()
	want := "\npyrycode_relay_binaries_in_grace " + inGrace + "\n"
	also := []string{"\npyrycode_relay_connected_binaries " + binaries + "\n", "\npyrycode_relay_connected_phones " + phones + "\n"}
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		m := s.page(t, "/metrics")
		if strings.Contains(m, want) && strings.Contains(m, also[0]) && strings.Contains(m, also[1]) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the gauges never show %s binaries, %s phones, %s in grace:\n%s", binaries, phones, inGrace, gauges(m))
		}
	}
}

func gauges(metrics string) string {
	var b strings.Builder
	for l := range strings.Lines(metrics) {
		if strings.HasPrefix(l, "pyrycode_relay_connected") || strings.HasPrefix(l, "pyrycode_relay_binaries") {
			b.WriteString(l)
		}
	}
	return b.String()
}
