package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestASignalEndsTheProcessWithExitCode0(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd, lines := child(t, onFreePorts...)
		s := readyLine(t, lines)
		if got := call(t.Context(), nil, "probe", "--relay", "ws://"+s.public); got.code != 0 {
			t.Errorf("probe returned %d: %s", got.code, got.stderr)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		log := rest(lines)
		if err := cmd.Wait(); err != nil {
			t.Errorf("after %v: %v; want exit 0", sig, err)
		}
		if !strings.Contains(log, `"msg":"ending","signal":"`+sig.String()+`"`) || !strings.Contains(log, `"msg":"stopped"`) {
			t.Errorf("after %v the log has no ending and stopped:\n%s", sig, log)
		}
	}
}

func rest(lines *bufio.Scanner) string {
	var b strings.Builder
	for lines.Scan() {
		b.WriteString(lines.Text() + "\n")
	}
	return b.String()
}

// withLog starts the command with a pipe as its log, and returns the read end.
func withLog(t *testing.T, args ...string) (*exec.Cmd, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	t.Cleanup(func() { r.Close() })
	return startWith(t, w, args...), r
}

// clusterSecret is the variable with the secret of a cluster.
const clusterSecret = "PYRYCODE_RELAY_CLUSTER_SECRET=0123456789abcdef"

// startWith starts the command with a file as its log.
func startWith(t *testing.T, log *os.File, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = []string{asCommand + "=1", "GORACE=atexit_sleep_ms=0"}
	if slices.Contains(args, "--cluster") || slices.Contains(args, "--cluster-embedded") {
		cmd.Env = append(cmd.Env, clusterSecret)
	}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd
}

// fill writes to a pipe until it is full.
func fill(pipe *os.File) {
	_ = pipe.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	var err error
	for err == nil {
		_, err = pipe.Write(make([]byte, 4<<10))
	}
}

// withFullLog starts the command with a full pipe as its log. No goroutine reads from the
// pipe.
func withFullLog(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	defer w.Close()
	fill(w)
	return startWith(t, w, args...)
}

// ends waits for the end of a command, and kills it after patience. It reports whether
// the command ended without that.
func ends(cmd *exec.Cmd) bool {
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	return late.Stop()
}

// endsWell waits for the end of a command that has received a signal, and fails the test
// unless the exit code is 0.
func endsWell(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the command ends with %v; want exit 0", err)
	}
}

func TestARelayContinuesAfterTheReaderOfItsLogHasEnded(t *testing.T) {
	cmd, log := withLog(t, onFreePorts...)
	s := readyLine(t, bufio.NewScanner(log))
	log.Close() // from now on each write causes SIGPIPE
	for range 3 {
		if got := call(t.Context(), nil, "probe", "--relay", "ws://"+s.public); got.code != 0 {
			t.Errorf("probe returned %d: %s", got.code, got.stderr)
		}
	}
	if m := s.page(t, "/metrics"); strings.Contains(m, "\npyrycode_relay_log_records_lost_total{reason=\"write_failed\"} 0\n") {
		t.Error("the records that could not be written are not counted")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	endsWell(t, cmd)
}

func TestTheExporterContinuesAfterTheReaderOfItsOutputHasEnded(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "probe", "--listen", "127.0.0.1:0", "--relay", "ws://127.0.0.1:1", "--every", "1s")
	cmd.Env = []string{asCommand + "=1", "GORACE=atexit_sleep_ms=0"}
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	lines := bufio.NewScanner(r)
	if !lines.Scan() {
		t.Fatal("the exporter prints nothing")
	}
	_, at, _ := strings.Cut(lines.Text(), "metrics at http://")
	r.Close() // the next line causes SIGPIPE, whether or not the first probe has failed
	e := served{private: strings.TrimSuffix(at, "/metrics")}
	for end := time.Now().Add(patience); strings.Contains(e.page(t, "/metrics"), "\npyrycode_relay_probe_last_timestamp_seconds 0\n"); {
		if time.Now().After(end) {
			t.Fatal("the exporter does not probe")
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	endsWell(t, cmd)
}

func TestARelayEndsAlthoughItsLogIsFull(t *testing.T) {
	for _, args := range [][]string{
		append(onFreePorts, "--log-level", "debug"),
		{"serve", "--listen", "256.0.0.1:0"}, // it fails, and cannot log the error
	} {
		cmd := withFullLog(t, args...)
		if len(args) > 3 {
			_ = cmd.Process.Signal(syscall.SIGTERM)
		}
		if !ends(cmd) {
			t.Errorf("%q did not end with a full log", args)
		}
	}
}

// systemd's watchdog sends SIGABRT, also to a relay with a full log.
func TestSIGQUITAndSIGABRTEndARelayWithOrWithoutAFullLog(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGABRT} {
		for _, stuck := range []bool{false, true} {
			cmd, log := withLog(t, onFreePorts...)
			lines := bufio.NewScanner(log)
			readyLine(t, lines)
			dumped := make(chan string, 1)
			if stuck {
				pipe, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/2", cmd.Process.Pid), os.O_WRONLY|syscall.O_NONBLOCK, 0)
				if err != nil {
					t.Skip("the log of another process cannot be opened here")
				}
				fill(pipe)
				pipe.Close()
			} else {
				go func() { dumped <- rest(lines) }()
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if !ends(cmd) || cmd.ProcessState.ExitCode() != refused {
				t.Errorf("after %v with a log that is stuck: %v it ends with %v; want exit %d", sig, stuck, cmd.ProcessState, refused)
			}
			if !stuck {
				if text := <-dumped; !strings.Contains(text, "goroutine 1 [") {
					t.Errorf("after %v the log does not say what the goroutines do:\n%.500s", sig, text)
				}
			}
		}
	}
}

func TestACommandEndsAlthoughItsErrorOutputIsFull(t *testing.T) {
	for _, args := range [][]string{{"healthcheck", "--metrics-listen", "127.0.0.1:1"}, {"probe", "--count", "x"}, {"nonsense"}} {
		if !ends(withFullLog(t, args...)) {
			t.Errorf("%q did not end", args)
		}
	}
}

// The relay refuses descriptors of a supervisor that it cannot serve. Otherwise it
// listens at another address than the supervisor expects.
func TestDescriptorsThatCannotBeServedAreRefused(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	packets, err := udp.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	listens, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer listens.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	connected, err := client.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	regular, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer regular.Close()
	for _, tt := range []struct {
		name  string
		files []*os.File
		fds   string
		names string
		want  string
	}{
		{"a UDP socket", []*os.File{packets}, "1", "public", "is not a listening TCP socket"},
		{"a connection", []*os.File{connected}, "1", "public", "is not a listening TCP socket"},
		{"a file", []*os.File{regular}, "1", "public", "is not a listening TCP socket"},
		{"a closed descriptor", []*os.File{listens}, "2", "public:private", "is not a listening TCP socket"},
		{"another name", []*os.File{listens}, "1", "web", `with the name "web"`},
		{"no number", []*os.File{listens}, "abc", "public", "LISTEN_FDS=\"abc\": must be a number from 0 to 64"},
		{"less than none", []*os.File{listens}, "-1", "public", "must be a number from 0 to 64"},
		{"very many", []*os.File{listens}, "9223372036854775807", "public", "must be a number from 0 to 64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" serve --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0`, os.Args[0])
			cmd.Env = []string{asCommand + "=1", "GORACE=atexit_sleep_ms=0", "LISTEN_FDS=" + tt.fds, "LISTEN_FDNAMES=" + tt.names}
			cmd.ExtraFiles = tt.files
			var said strings.Builder
			cmd.Stderr = &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
			_ = cmd.Wait()
			late.Stop()
			if cmd.ProcessState.ExitCode() != refused || !strings.Contains(said.String(), tt.want) {
				t.Errorf("it ends with %v and says %s\nwant exit %d and %q", cmd.ProcessState, said.String(), refused, tt.want)
			}
		})
	}
}

func TestTheLastLogFormatAppliesAndTheNumberOfProblemsIsBounded(t *testing.T) {
	got := call(t.Context(), nil, "serve", "--log-format", "text", "--log-format", "json", "--grace", "0s")
	if !strings.Contains(got.stderr, `"msg":"failed"`) {
		t.Errorf("the last --log-format does not apply: %s", got.stderr)
	}
	config := filepath.Join(t.TempDir(), "relay.yml")
	if err := os.WriteFile(config, []byte(strings.Repeat("nonsense: 1\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	got = call(t.Context(), nil, "serve", "--config", config)
	if n := strings.Count(got.stderr, "\n"); n > maxProblems+5 || !strings.Contains(got.stderr, "problems more") {
		t.Errorf("%d lines for a file with 1000 mistakes:\n%s", n, got.stderr[max(0, len(got.stderr)-300):])
	}
}

// A configuration that is read from a pipe may arrive late.
func TestASignalEndsAStartThatWaitsForItsConfiguration(t *testing.T) {
	name := filepath.Join(t.TempDir(), "relay.yml")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd, log := withLog(t, "serve", "--config", name)
		w, err := os.OpenFile(name, os.O_WRONLY, 0) // waits until the command has opened it
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		endsWell(t, cmd)
		w.Close()
		log.Close()
	}
}

func TestProblemsAreReportedInTheFormatOfTheLog(t *testing.T) {
	config := filepath.Join(t.TempDir(), "relay.yml")
	if err := os.WriteFile(config, []byte("log-format: json\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args, environ []string
		want          string
	}{
		{[]string{"serve", "--log-format", "json", "--grace", "0s"}, nil, `"msg":"failed","err":"--grace \"0s\": must be`},
		{[]string{"--log-format=json", "--grac", "5s"}, nil, `"msg":"failed","err":"unknown flag --grac`},
		{[]string{"serve", "--grac", "5s"}, []string{"PYRYCODE_RELAY_LOG_FORMAT=json"}, `"msg":"failed","err":"unknown flag --grac`},
		{[]string{"serve", "--config", config, "--grace", "0s"}, nil, `"msg":"failed","err":"--grace \"0s\": must be`},
		{[]string{"serve", "--config", config, "--listen", "127.0.0.1:0", "--metrics-listen", "10.255.255.1:9", "--log-level", "error"}, nil, `"msg":"failed","err":"cannot listen on 10.255.255.1:9`},
		{[]string{"serve", "--grace", "0s"}, nil, `pyrycode-relay: --grace "0s": must be`},
	} {
		if got := call(t.Context(), tt.environ, tt.args...); got.code == 0 || !strings.Contains(got.stderr, tt.want) {
			t.Errorf("%q: exit %d, %q\nwant %q", tt.args, got.code, got.stderr, tt.want)
		}
	}
}

// The gauges are right in each state that an operator sees. The binary's process is
// killed, so that it cannot close its connection itself.
func TestGaugesFollowABinaryThatIsKilled(t *testing.T) {
	t.Parallel()
	s := serveHere(t, "--grace", "2s")
	s.until(t, "0", "0", "0")
	binary, said := child(t, "probe", "--relay", "ws://"+s.public, "--role", "binary", "--server-id", "demo")
	if !said.Scan() || said.Text() != "binary: holds server-id demo" {
		t.Fatalf("the binary says %q", said.Text())
	}
	s.until(t, "1", "0", "0")
	phones, heard := child(t, "probe", "--relay", "ws://"+s.public, "--role", "phone", "--server-id", "demo", "--phones", "3", "--hold", "1m")
	if !heard.Scan() || !strings.HasPrefix(heard.Text(), "3 round trips of 3 phones: min ") {
		t.Fatalf("the phones say %q", heard.Text())
	}
	s.until(t, "1", "3", "0")
	if err := binary.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = binary.Wait()
	s.until(t, "0", "3", "1")
	s.until(t, "0", "0", "0")
	if !heard.Scan() || !strings.HasPrefix(heard.Text(), "pyrycode-relay probe: the relay closed phone ") || !strings.HasSuffix(heard.Text(), ": 1000") {
		t.Errorf("after the grace the phones say %q", heard.Text())
	}
	_ = phones.Wait()
	if got := phones.ProcessState.ExitCode(); got != failed {
		t.Errorf("the phones return %d; want %d", got, failed)
	}
	if m := s.page(t, "/metrics"); !strings.Contains(m, "\npyrycode_relay_grace_expiries_total 1\n") {
		t.Error("the expiry is not counted once")
	}
	if got := s.page(t, "/debug/check"); !strings.HasPrefix(got, "ok") {
		t.Errorf("/debug/check: %s", got)
	}
}

func TestAnAddressInUseReturns1(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	got := call(t.Context(), nil, "serve", "--listen", ln.Addr().String(), "--metrics-listen", "127.0.0.1:0", "--log-level", "error")
	want := "pyrycode-relay: cannot listen on " + ln.Addr().String() + " (--listen): address already in use; end the program that uses it, or choose another port\n"
	if got.code != failed || got.stderr != want {
		t.Errorf("got %d, %q\nwant %d, %q", got.code, got.stderr, failed, want)
	}
}

func TestVersionPrintsVersionAndRevision(t *testing.T) {
	version, revision = "v1.2.3", "abc"
	defer func() { version, revision = "", "" }()
	for _, arg := range []string{"version", "--version"} {
		got := call(t.Context(), []string{"PYRYCODE_RELAY_TYPO=1"}, arg)
		if got.code != 0 || !strings.HasPrefix(got.stdout, "pyrycode-relay v1.2.3 (revision abc, go1.") || got.stderr != "" {
			t.Errorf("%s: %+v", arg, got)
		}
	}
}
