package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// fingerprintCommand is the command that follows one server-id: the log has only its
// fingerprint.
type fingerprintCommand struct {
	operator

	ServerID   string `of:"fingerprint" name:"server-id" unit:"text" group:"Question" help:"The server-id. A single -: the first line of standard input, so that it is in no list of processes."`
	LogKeyFile string `name:"log-key-file" placeholder:"FILE" unit:"file" group:"Question" help:"The file that serve has as its --log-key-file: then no relay is asked. None: the running relay is asked."`
	Log        bool   `of:"fingerprint" name:"log" unit:"true or false" group:"Question" help:"Print the lines of the running relay's /debug/log that are about the server-id, and not the fingerprint."`
}

// check returns all that is wrong with the options.
func (f *fingerprintCommand) check() []config.Problem {
	all := problems(f.operator.check())
	all.unless(f.ServerID != "" && len(f.ServerID) <= 256, "server-id", f.ServerID, "must be given, and have at most 256 bytes", "it is the one that the binary has; - reads it from standard input")
	return all
}

// run prints the fingerprint, or the lines of the log that have it. The error is one
// sentence for the user.
func (f *fingerprintCommand) run(ctx context.Context, c invocation) error {
	id, err := orStdin(f.ServerID, c.in)
	if err != nil {
		return err
	}
	a, err := f.asker(f.AnswerTimeout)
	if err != nil {
		return err
	}
	text := ""
	if f.LogKeyFile != "" {
		key, err := config.ReadLogKey(f.LogKeyFile)
		if err != nil {
			return fmt.Errorf("cannot use --log-key-file %s: %w", f.LogKeyFile, err)
		}
		text = daemon.Fingerprint(key, id)
	} else if text, err = askFingerprint(ctx, a, id); err != nil {
		return err
	}
	if !f.Log {
		fmt.Fprintln(c.out, text)
		return nil
	}
	status, lines, err := a.get(ctx, "/debug/log")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s/debug/log: HTTP %d", a.base, status)
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(lines)) {
		if strings.Contains(line, text) {
			fmt.Fprint(c.out, line)
		}
	}
	return nil
}

// askFingerprint asks the relay what its log shows for id. The error is a sentence.
func askFingerprint(ctx context.Context, a *asker, id string) (string, error) {
	if err := a.private(ctx); err != nil {
		return "", err
	}
	status, body, err := a.do(ctx, http.MethodPost, "/debug/fingerprint", strings.NewReader(id))
	text := strings.TrimSpace(string(body))
	switch {
	case err != nil:
		return "", err
	case status == http.StatusNotFound:
		return "", fmt.Errorf("%s is a relay of an earlier version: its log has server-ids in full", a.base)
	case status != http.StatusOK:
		return "", fmt.Errorf("%s/debug/fingerprint: HTTP %d: %.300s", a.base, status, text)
	}
	return text, nil
}
