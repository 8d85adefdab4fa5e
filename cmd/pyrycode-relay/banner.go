package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if ok {
		_, _, err := terminalSize(f)
		ok = err == nil
	}
	return ok
}

// bannerFor returns the banner of serve for its standard error and log format, or nil if
// no person reads it there.
func bannerFor(stderr io.Writer, format string) func(daemon.URLs) string {
	if format != "text" || !isTerminal(stderr) {
		return nil
	}
	return func(u daemon.URLs) string { return banner(u, os.Args[0], os.Getenv("TERM") != "dumb") }
}

// banner returns a short text with the places of the relay and the next command of the
// program. With links, a terminal opens the pages by a click (OSC 8).
func banner(u daemon.URLs, program string, links bool) string {
	var b strings.Builder
	probe := program + " probe"
	if u.Relay != "ws://127.0.0.1:8080" {
		probe += " --relay " + u.Relay
	}
	fmt.Fprintf(&b, "\n  Binaries and phones connect to  %s\n", u.Relay)
	if u.Pages != "" {
		pages := u.Pages
		if links {
			pages = "\x1b]8;;" + pages + "\x1b\\" + pages + "\x1b]8;;\x1b\\"
		}
		fmt.Fprintf(&b, "  Status page                     %s\n", pages)
	}
	fmt.Fprintf(&b, "  Try it in another shell         %s\n  Ctrl-C                          drains the relay and ends it\n\n", probe)
	return b.String()
}
