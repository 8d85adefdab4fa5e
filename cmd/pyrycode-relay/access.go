package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyrycode/pyrycode-relay/internal/access"
	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// accessCommands returns the command access. Its commands edit the file of --access-file.
// They ask no relay: a running relay reads the file when it changes.
func accessCommands() *cobra.Command {
	const id = "ID is a server-id, sha256: and its hash, or - for the first line of standard input, so that the server-id is in no list of processes."
	return cli.Group("access", "Show and change which server-ids or tokens may use a relay.",
		withLong(cli.Command("add ID", "Allow a server-id.", new(accessAdd)), id),
		withLong(cli.Command("remove ID", "End the access of a server-id.", new(accessRemove)), id+" The beginning of a hash, as list shows it, is enough."),
		cli.Command("list", "List the entries of the file.", new(accessList)),
		cli.Group("token", "Allow tokens, which binaries have in the URL of the relay.",
			cli.Command("add NAME", "Create a token, and print the URL with it.", new(tokenAdd)),
			cli.Command("remove NAME", "End the access of a token.", new(tokenRemove))))
}

// accessFile has the options of each command of access.
type accessFile struct {
	ConfigFile string `name:"config" placeholder:"FILE" unit:"file" group:"The relay" help:"The file that serve reads."`
	Access     string `name:"access" default:"open" values:"open,list,tokens,url" unit:"open, list, tokens or url" group:"The relay" help:"The --access of serve."`
	AccessFile string `name:"access-file" placeholder:"FILE" unit:"file" group:"The relay" help:"The --access-file of serve: the file to edit."`
}

// check returns all that is wrong with the options.
func (a *accessFile) check() []config.Problem {
	var all problems
	all.unless(a.AccessFile != "", "access-file", "", "must be given", "it is the file that serve has as its --access-file; with --config it is read from there")
	return all
}

// accessAdd is the command access add.
type accessAdd struct {
	accessFile

	Note    string `of:"access" name:"note" unit:"text" group:"The entry" help:"Note for people, such as the name of the owner."`
	Expires string `of:"access" name:"expires" unit:"date, time or duration" group:"The entry" help:"When the access ends: 2027-01-31 (its begin in UTC), 2027-01-31T18:00:00Z, or 720h from now. None: never."`
	Phones  int    `of:"access" name:"phones" unit:"phones" group:"The entry" help:"Limit on its phones, if it is lower than --max-phones. 0: only --max-phones counts."`
	Rate    int    `of:"access" name:"rate" unit:"per minute" group:"The entry" help:"Limit on its connection attempts per minute, from all addresses, of its binary and its phones together. 0: none."`
}

// tokenAdd is the command access token add.
type tokenAdd struct {
	accessAdd

	IDs    int    `of:"access" name:"ids" unit:"server-ids" group:"The entry" help:"Limit on the server-ids that the token may claim. 0: 8."`
	Relay  string `of:"access" name:"relay" placeholder:"URL" unit:"URL" group:"The URL" help:"The relay's URL, for the URL with the token, such as wss://relay.example.com. None: wss:// and --domain."`
	Domain string `name:"domain" placeholder:"NAME" unit:"host name" group:"The URL" help:"The --domain of serve, for the URL with the token."`
}

// accessRemove is the command access remove.
type accessRemove struct{ accessFile }

// tokenRemove is the command access token remove.
type tokenRemove struct{ accessFile }

// accessList is the command access list.
type accessList struct {
	accessFile

	JSON bool `of:"access" name:"json" unit:"true or false" group:"Output" help:"Print one JSON array."`
}

// check returns all that is wrong with the options.
func (a *accessAdd) check() []config.Problem {
	all := problems(a.accessFile.check())
	if a.Expires != "" {
		now := time.Now()
		end, err := a.expires(now)
		all.unless(err == nil, "expires", a.Expires, "must be a date, a time or a duration", "for example 2027-01-31, 2027-01-31T18:00:00Z or 720h")
		all.unless(err != nil || end.After(now), "expires", a.Expires, "must be in the future", "access remove ends an access now")
	}
	if err := access.CheckNote(a.Note); err != nil {
		all.unless(false, "note", a.Note, err.Error(), "for example Anna's laptop")
	}
	all.unless(a.Phones >= 0 && a.Phones <= 10_000, "phones", a.Phones, "must be from 0 to 10000", "0 means no limit of its own")
	all.unless(a.Rate >= 0 && a.Rate <= 1_000_000, "rate", a.Rate, "must be from 0 to 1000000", "0 means no limit")
	return all
}

// check returns all that is wrong with the options.
func (a *tokenAdd) check() []config.Problem {
	all := problems(a.accessAdd.check())
	all.unless(a.IDs >= 0 && a.IDs <= 10_000, "ids", a.IDs, "must be from 0 to 10000", "0 means 8")
	if a.Relay != "" {
		u, err := url.Parse(a.Relay)
		all.unless(err == nil && (u.Scheme == "ws" || u.Scheme == "wss") && u.Host != "" && strings.Trim(u.Path, "/") == "" && u.RawQuery == "", "relay", a.Relay,
			"must be a URL that begins with ws:// or wss://, names a host, and has no path", "for example wss://relay.example.com")
	}
	return all
}

// expires returns the time of --expires.
func (a *accessAdd) expires(now time.Time) (time.Time, error) {
	if a.Expires == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(a.Expires); err == nil && d > 0 {
		return now.Add(d).UTC().Truncate(time.Second), nil
	}
	return access.ParseTime(a.Expires)
}

// run adds an entry for a server-id. The error is one sentence for the user.
func (a *accessAdd) run(_ context.Context, c invocation) error {
	l, err := subjectOf(c.args[0], c.in)
	if err != nil {
		return err
	}
	return a.enter(l, c.out)
}

// run removes the entry of a server-id. The error is one sentence for the user.
func (a *accessRemove) run(_ context.Context, c invocation) error {
	return a.remove(func(text []byte) (access.Line, error) { return find(text, c.args[0], c.in) }, c.out)
}

// run removes the entry of a token. The error is one sentence for the user.
func (a *tokenRemove) run(_ context.Context, c invocation) error {
	return a.remove(func(text []byte) (access.Line, error) { return findToken(text, c.args[0]) }, c.out)
}

// run adds an entry for a new token, and prints the URL with it. The error is one sentence
// for the user.
func (a *tokenAdd) run(_ context.Context, c invocation) error {
	name, out := c.args[0], c.out
	if err := access.CheckName(name); err != nil {
		return cli.Usagef("%w", err)
	}
	token := rand.Text()
	l := access.Line{Token: true, Subject: access.SubjectOf(token), Entry: access.Entry{Name: name, MaxIDs: a.IDs}}
	if err := a.enter(l, out); err != nil {
		return err
	}
	base := strings.TrimSuffix(a.Relay, "/")
	switch {
	case base != "":
	case a.Domain != "":
		base = "wss://" + a.Domain
	default:
		base = "wss://HOST"
	}
	fmt.Fprintf(out, "The relay URL for the daemon of %s; the token in it is a secret, and is not shown again:\n\n    %s/t/%s\n\n", name, base, token)
	if a.Relay == "" && a.Domain == "" {
		fmt.Fprintln(out, "Replace HOST by the name of the relay, or give --relay or --domain.")
	}
	return nil
}

// enter adds an entry with the limits, expiry and note of the options.
func (a *accessAdd) enter(l access.Line, out io.Writer) (err error) {
	l.Note, l.Phones, l.Rate = a.Note, a.Phones, a.Rate
	if l.Expires, err = a.expires(time.Now()); err != nil {
		return err
	}
	if err := a.edit(func(text []byte) ([]byte, error) { return access.Add(text, l) }); err != nil {
		return err
	}
	a.said("added", l, out)
	return nil
}

// remove removes the entry that which returns.
func (a *accessFile) remove(which func(text []byte) (access.Line, error), out io.Writer) error {
	var gone access.Line
	err := a.edit(func(text []byte) (_ []byte, err error) {
		if len(text) == 0 {
			return nil, errors.New("the file does not exist, or is empty")
		}
		if gone, err = which(text); err != nil {
			return nil, err
		}
		return access.Remove(text, func(l access.Line) bool { return l.Subject == gone.Subject })
	})
	if err != nil {
		return err
	}
	a.said("removed", gone, out)
	return nil
}

// said tells the user what has changed.
func (a *accessFile) said(done string, l access.Line, out io.Writer) {
	note := ""
	if l.Note != "" {
		note = " (" + l.Note + ")"
	}
	fmt.Fprintf(out, "%s %s%s; a relay that runs with --access-file %s has it within a second\n", done, short(l), note, a.AccessFile)
	want := config.AccessList
	if l.Token {
		want = config.AccessTokens
	}
	if a.Access != want {
		fmt.Fprintf(out, "note: --access is %s here; serve reads such a file with --access %s\n", a.Access, want)
	}
}

// short returns the text that stands for l: the name of a token, or the beginning of the
// hash of a server-id.
func short(l access.Line) string {
	if l.Token {
		return l.Name
	}
	return "sha256:" + l.Subject.String()[:12]
}

// edit replaces the content of the file.
func (a *accessFile) edit(change func([]byte) ([]byte, error)) error {
	if err := access.EditFile(a.AccessFile, change); err != nil {
		return fmt.Errorf("%s: %w; nothing has changed", a.AccessFile, withoutName(err))
	}
	return nil
}

// withoutName returns err without the name of a file.
func withoutName(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// subjectOf returns a line with the subject that arg names, or, if arg is -, with the
// server-id in the first line of in.
func subjectOf(arg string, in io.Reader) (l access.Line, err error) {
	if strings.HasPrefix(arg, "sha256:") {
		if l, err = access.ParseLine(arg); err != nil {
			return l, cli.Usagef("%w", err)
		}
		return l, nil
	}
	if arg, err = orStdin(arg, in); err != nil {
		return l, err
	}
	if arg == "" || len(arg) > 256 {
		return l, cli.Usagef("the server-id must have 1 to 256 bytes")
	}
	if access.HasControl(arg) {
		return l, cli.Usagef("the server-id %q has a control character, which no header can have", arg)
	}
	return access.Line{Subject: access.SubjectOf(arg)}, nil
}

// leastPrefix is the number of digits of a hash that find accepts.
const leastPrefix = 8

// find returns the entry of text that arg names.
func find(text []byte, arg string, in io.Reader) (access.Line, error) {
	lines, err := access.Lines(text)
	if err != nil {
		return access.Line{}, err
	}
	digits, hashed := strings.CutPrefix(arg, "sha256:")
	if hashed && len(digits) < leastPrefix {
		return access.Line{}, cli.Usagef("%s: give at least %d digits of the hash", arg, leastPrefix)
	}
	if hashed && len(digits) < 64 {
		return only(lines, func(l access.Line) bool { return strings.HasPrefix(l.Subject.String(), strings.ToLower(digits)) })
	}
	want, err := subjectOf(arg, in)
	if err != nil {
		return access.Line{}, err
	}
	return only(lines, func(l access.Line) bool { return l.Subject == want.Subject })
}

// findToken returns the entry of the token with that name.
func findToken(text []byte, name string) (access.Line, error) {
	lines, err := access.Lines(text)
	if err != nil {
		return access.Line{}, err
	}
	return only(lines, func(l access.Line) bool { return l.Token && l.Name == name })
}

// only returns the line that matches. It is an error if there is none, or more than one.
func only(lines []access.Line, match func(access.Line) bool) (found access.Line, err error) {
	n := 0
	for _, l := range lines {
		if match(l) {
			found = l
			n++
		}
	}
	switch n {
	case 0:
		return found, access.ErrNoEntry
	case 1:
		return found, nil
	}
	return found, fmt.Errorf("%d entries match; give more digits of the hash", n)
}

// accessEntry is one entry in the output of list.
type accessEntry struct {
	Name    string     `json:"name,omitempty"` // of a token
	Subject string     `json:"sha256"`
	Note    string     `json:"note,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
	Expired bool       `json:"expired"`
	MaxIDs  int        `json:"ids,omitempty"` // of a token
	Phones  int        `json:"phones,omitempty"`
	Rate    int        `json:"rate,omitempty"`
}

// run prints the entries. The error is one sentence for the user.
func (a *accessList) run(_ context.Context, c invocation) error {
	now, out := time.Now(), c.out
	text, err := config.ReadFile(a.AccessFile, access.MaxFile, false)
	if err != nil {
		return fmt.Errorf("%s: %w", a.AccessFile, withoutName(err))
	}
	lines, err := access.Lines(text)
	if err == nil {
		kind := access.ServerIDs
		if len(lines) > 0 && lines[0].Token {
			kind = access.Tokens
		}
		_, err = access.ParseBook(text, kind)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", a.AccessFile, err)
	}
	if a.JSON {
		return printEntries(lines, now, out)
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ENTRY\tEXPIRES\tPHONES\tRATE\tNOTE")
	for _, l := range lines {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", short(l), expiry(l, now), orDash(l.Phones), orDash(l.Rate), l.Note)
	}
	return t.Flush()
}

// printEntries prints the entries as one JSON array.
func printEntries(lines []access.Line, now time.Time, out io.Writer) error {
	all := make([]accessEntry, len(lines))
	for i, l := range lines {
		all[i] = accessEntry{Name: l.Name, Subject: l.Subject.String(), Note: l.Note, MaxIDs: l.MaxIDs, Phones: l.Phones, Rate: l.Rate}
		if !l.Expires.IsZero() {
			all[i].Expires, all[i].Expired = &l.Expires, !now.Before(l.Expires)
		}
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(all)
}

// expiry returns the expiry of l for a table.
func expiry(l access.Line, now time.Time) string {
	switch {
	case l.Expires.IsZero():
		return "never"
	case !now.Before(l.Expires):
		return access.FormatTime(l.Expires) + " (ended)"
	}
	return access.FormatTime(l.Expires)
}

func orDash(n int) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprint(n)
}
