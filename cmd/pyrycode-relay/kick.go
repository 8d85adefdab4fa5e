package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// kick is the command kick.
type kick struct {
	operator

	Why string `of:"kick" name:"why" unit:"text" group:"Action" help:"The reason, for the log of the relay."`
}

// run closes connections. The error is a sentence.
func (k *kick) run(ctx context.Context, c invocation) error {
	a, err := k.change(ctx, c, daemon.KickPath, daemon.OperatorRequest{Why: k.Why})
	if err != nil {
		return err
	}
	if a.Binaries+a.Phones+a.Graces == 0 {
		return fmt.Errorf("nothing is connected as %s", a.What)
	}
	fmt.Fprintf(c.out, "%s: %s\n", a.What, closedText(a))
	return nil
}

// ban is the command ban.
type ban struct {
	operator

	For time.Duration `of:"ban" name:"for" default:"1h" unit:"time" group:"Action" help:"How long: up to 8784h, which is 366 days."`
	Why string        `of:"ban" name:"why" unit:"text" group:"Action" help:"The reason, for the log of the relay and the list of bans. The client does not get it."`
}

// check returns all problems of the options.
func (b *ban) check() []config.Problem {
	all := problems(b.operator.check())
	all.unless(b.For > 0, "for", b.For, "must be more than 0s", "the default is 1h")
	return all
}

// run bans. The error is a sentence.
func (b *ban) run(ctx context.Context, c invocation) error {
	a, err := b.change(ctx, c, daemon.BansPath, daemon.OperatorRequest{Why: b.Why, For: b.For.String()})
	if err != nil {
		return err
	}
	until := ""
	if a.Until != nil {
		until = " until " + a.Until.UTC().Format("2006-01-02 15:04:05") + " UTC"
	}
	if a.Was != nil {
		until += ", in place of " + a.Was.UTC().Format("2006-01-02 15:04:05") + " UTC"
	}
	fmt.Fprintf(c.out, "%s: banned%s; %s\n", a.What, until, closedText(a))
	if !a.Saved && a.NotSaved == "" {
		fmt.Fprintln(c.out, "a restart of the relay forgets the ban: it has no --state-dir")
	}
	return nil
}

// unban is the command unban.
type unban struct {
	operator

	Why string `of:"unban" name:"why" unit:"text" group:"Action" help:"The reason, for the log of the relay."`
}

// run lifts a ban. The error is a sentence.
func (u *unban) run(ctx context.Context, c invocation) error {
	a, err := u.change(ctx, c, daemon.UnbanPath, daemon.OperatorRequest{Why: u.Why})
	if err != nil {
		return err
	}
	switch {
	case !a.Lifted && a.Covered != "":
		return fmt.Errorf("there is no ban of %s itself; the ban of %s keeps it out", a.What, a.Covered)
	case !a.Lifted:
		return fmt.Errorf("there is no ban of %s; bans lists them", a.What)
	case a.Covered != "":
		fmt.Fprintf(c.out, "%s: its own ban is lifted; the ban of %s still keeps it out\n", a.What, a.Covered)
	default:
		fmt.Fprintf(c.out, "%s: no longer banned\n", a.What)
	}
	return nil
}

// clusterTime is the time in which a relay asks the other nodes of its cluster, and in
// which its disk has to answer.
const clusterTime = 12 * time.Second

// change sends a request that changes something about the argument of the command, and
// prints what did not work in spite of an answer.
func (o *operator) change(ctx context.Context, c invocation, path string, r daemon.OperatorRequest) (got daemon.OperatorAnswer, err error) {
	if r.What, err = orStdin(c.args[0], c.in); err != nil {
		return got, err
	}
	if !utf8.ValidString(r.What) { // JSON cannot name it
		r.What = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(r.What)))
	}
	a, err := o.asker(o.AnswerTimeout + clusterTime)
	if err != nil {
		return got, err
	}
	text, err := json.Marshal(r)
	if err != nil {
		return got, err
	}
	code, body, err := a.do(ctx, http.MethodPost, path, bytes.NewReader(text))
	if err != nil {
		return got, err
	}
	if err := a.parse(path, code, body, &got); err != nil {
		return got, err
	}
	for _, node := range got.Silent {
		fmt.Fprintf(c.out, "warning: node %s\n", node)
	}
	if got.NotSaved != "" {
		fmt.Fprintf(c.out, "warning: the ban is in force, and a restart forgets it: %s\n", got.NotSaved)
	}
	return got, nil
}

// closedText says what a request has closed.
func closedText(a daemon.OperatorAnswer) string {
	text := fmt.Sprintf("closed %s and %s", plural(a.Binaries, "binary"), plural(a.Phones, "phone"))
	if a.Graces > 0 {
		text += fmt.Sprintf(", ended %s", plural(a.Graces, "grace"))
	}
	return text
}

// bans is the command bans.
type bans struct {
	operator

	JSON bool `of:"bans" name:"json" unit:"true or false" group:"Output" help:"Print one JSON object, as /bans has it."`
}

// run prints the bans in force. The error is a sentence.
func (b *bans) run(ctx context.Context, c invocation) error {
	out := c.out
	a, err := b.asker(b.AnswerTimeout)
	if err != nil {
		return err
	}
	var list daemon.BanList
	if err := a.fetch(ctx, daemon.BansPath, &list); err != nil {
		return err
	}
	if b.JSON {
		return json.NewEncoder(out).Encode(list)
	}
	if len(list.Bans) == 0 {
		fmt.Fprintln(out, "no bans")
		return nil
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WHAT\tUNTIL (UTC)\tLEFT\tBY\tWHY")
	now := time.Now()
	for _, x := range list.Bans {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", cmp.Or(x.Label, shortKey(x.What)), x.Until.UTC().Format("2006-01-02 15:04:05"), span(x.Until.Sub(now)), x.By, x.Why)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if !list.Saved {
		fmt.Fprintln(out, "a restart of the relay forgets them: it has no --state-dir")
	}
	return nil
}

// shortKey returns a network, or the first digits of a hash. unban takes both.
func shortKey(what string) string {
	const short = len("sha256:") + 16
	if len(what) == len("sha256:")+64 {
		return what[:short]
	}
	return what
}
