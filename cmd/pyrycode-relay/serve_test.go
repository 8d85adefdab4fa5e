package main

import (
	"bufio"
	"net"
	"strings"
	"syscall"
	"testing"
)

func TestASignalEndsTheProcessWell(t *testing.T) {
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
			t.Errorf("after %v the log lacks the ending:\n%s", sig, log)
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

// The gauges in each state that a relay's operator sees, with the binary's
// process killed so that it can say nothing.
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

func TestVersion(t *testing.T) {
	version, revision = "v1.2.3", "abc"
	defer func() { version, revision = "", "" }()
	got := call(t.Context(), []string{"PYRYCODE_RELAY_TYPO=1"}, "version")
	if got.code != 0 || !strings.HasPrefix(got.stdout, "pyrycode-relay v1.2.3 (revision abc, go1.") || got.stderr != "" {
		t.Errorf("version: %+v", got)
	}
}
