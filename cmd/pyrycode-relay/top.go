package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/status"
)

// top is the command top.
type top struct {
	operator
	listed

	Sort  string        `of:"top" name:"sort" default:"rate" values:"rate,bytes,waiting" unit:"rate, bytes or waiting" group:"Output" help:"The first connections by bytes per second, by bytes, or by bytes that wait to be written."`
	Every time.Duration `of:"top" name:"every" default:"2s" unit:"time" group:"Output" help:"Time between two pictures, and over which the rates are measured: from 100ms to 10s."`
}

// check returns all problems of the options.
func (t *top) check() []config.Problem {
	all := problems(t.operator.check())
	all.unless(t.Every >= 100*time.Millisecond && t.Every <= 10*time.Second, "every", t.Every, "must be from 100ms to 10s", "the default is 2s")
	return all
}

// Control sequences of terminals (ECMA-48).
const (
	otherScreen = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	firstScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	clearRight  = "\x1b[K"
	clearBelow  = "\x1b[J"
)

// run shows the connections until ctx ends. The error is a sentence.
func (t *top) run(ctx context.Context, c invocation) error {
	screen, ok := c.out.(*os.File)
	if !ok || !isTerminal(screen) {
		return errors.New("standard output is no terminal; use ps, with --sort rate")
	}
	a, err := t.asker(t.AnswerTimeout + t.Every)
	if err != nil {
		return err
	}
	q, err := t.query(ctx, a, c.in)
	if err != nil {
		return err
	}
	q.Set("sort", t.Sort)
	q.Set("interval", t.Every.String())
	first, err := t.picture(ctx, a, q, screen) // its error belongs on the usual screen
	if err != nil {
		return err
	}
	fmt.Fprint(screen, otherScreen, first)
	defer fmt.Fprint(screen, firstScreen)
	pause := time.Duration(0)
	if t.Sort != "rate" { // the relay does not wait
		pause = t.Every
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		next, err := t.picture(ctx, a, q, screen)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			next = home + "pyrycode-relay top: " + err.Error() + clearRight + "\r\n" + clearBelow
			pause = t.Every // a relay that has gone answers immediately
		}
		fmt.Fprint(screen, next)
	}
}

// picture returns the text that draws the connections on a terminal of that size.
func (t *top) picture(ctx context.Context, a *asker, q url.Values, screen *os.File) (string, error) {
	width, height, err := terminalSize(screen)
	if err != nil {
		return "", err
	}
	q.Set("limit", strconv.Itoa(min(psPage, max(1, height-4))))
	list, err := a.list(ctx, q)
	if err != nil {
		return "", err
	}
	var s status.Status
	if err := a.fetch(ctx, "/status.json", &s); err != nil {
		return "", err
	}
	return draw(s, list, t.Sort, width, height), nil
}

// draw returns the picture of a list: two lines about the relay and the table, cut at the
// width and the height of the terminal.
func draw(s status.Status, list status.ConnectionList, sort string, width, height int) string {
	var text bytes.Buffer
	fmt.Fprintf(&text, "pyrycode-relay %s, up %s   %s, %s, %d in grace   %.0f frames/s, %s/s\n", s.Version,
		span(time.Duration(s.UptimeSeconds)*time.Second), plural(int(s.Binaries), "binary"), plural(int(s.Phones), "phone"), s.InGrace,
		s.FramesPerSecond.Sum(), size(s.BytesPerSecond.Sum()))
	fmt.Fprintf(&text, "by %s at %s; Ctrl-C ends\n\n", sort, list.Now.Local().Format("15:04:05"))
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	writeRows(table, list)
	_ = table.Flush() // a buffer takes everything
	var out bytes.Buffer
	out.WriteString(home)
	for i, line := range bytes.Split(bytes.TrimSuffix(text.Bytes(), []byte("\n")), []byte("\n")) {
		if i == height-1 {
			break
		}
		out.Write(line[:min(len(line), width)])
		out.WriteString(clearRight + "\r\n")
	}
	out.WriteString(clearBelow)
	return out.String()
}

// terminalSize returns the columns and rows of a terminal. The error says that f is none.
func terminalSize(f *os.File) (width, height int, err error) {
	s, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0, err
	}
	if s.Col == 0 || s.Row == 0 {
		return 80, 24, nil
	}
	return int(s.Col), int(s.Row), nil
}
