package main

import (
	"os"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

func TestTheBannerHasTheURLsAndTheNextCommand(t *testing.T) {
	local := daemon.URLs{Relay: "ws://127.0.0.1:8080", Pages: "http://127.0.0.1:9090/"}
	const link = "\x1b]8;;http://127.0.0.1:9090/\x1b\\http://127.0.0.1:9090/\x1b]8;;\x1b\\\n"
	for _, tt := range []struct {
		name  string
		urls  daemon.URLs
		links bool
		want  []string
		not   string
	}{
		{"the defaults", local, true, []string{"connect to  ws://127.0.0.1:8080\n", link, "./relay probe\n"}, "--relay"},
		{"a terminal without links", local, false, []string{"http://127.0.0.1:9090/\n"}, "\x1b"},
		{"another address", daemon.URLs{Relay: "wss://relay.test"}, true, []string{"./relay probe --relay wss://relay.test\n"}, "Status page"},
	} {
		got := banner(tt.urls, "./relay", tt.links)
		for _, w := range tt.want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: the banner has no %q:\n%q", tt.name, w, got)
			}
		}
		if strings.Contains(got, tt.not) {
			t.Errorf("%s: the banner has %q:\n%q", tt.name, tt.not, got)
		}
	}
}

func TestOnlyATerminalGetsTheBanner(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if bannerFor(null, "text") != nil || bannerFor(new(strings.Builder), "text") != nil {
		t.Error("an output that is no terminal gets the banner")
	}
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("this machine has no terminals: %v", err)
	}
	defer terminal.Close()
	if bannerFor(terminal, "text") == nil {
		t.Error("a terminal gets no banner")
	}
	if bannerFor(terminal, "json") != nil {
		t.Error("the log of a program gets the banner")
	}
}
