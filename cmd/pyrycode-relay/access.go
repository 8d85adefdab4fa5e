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
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/access"
	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// accessCommand edits the file of --access-file. It asks no relay: a running relay reads
// the file when it changes.
type accessCommand struct {
	Words []string `arg:"" optional:"" name:"what" help:"add ID, remove ID, token add NAME, token remove NAME, or list. ID is a server-id, sha256: and its hash, or - for the first line of standard input, so that the server-id is in no list of processes. remove also takes the beginning of a hash, as list shows it."`

	ConfigFile string `name:"config" default:"" placeholder:"FILE" unit:"file" group:"The relay" help:"The file that serve reads."`
	Access     string `name:"access" default:"open" values:"open,list,tokens,url" unit:"open, list, tokens or url" group:"The relay" help:"The --access of serve."`
	AccessFile string `name:"access-file" default:"" placeholder:"FILE" unit:"file" group:"The relay" help:"The --access-file of serve: the file to edit."`

	Domain string `name:"domain" default:"" placeholder:"NAME" unit:"host name" group:"The relay" help:"The --domain of serve, for the URL with a new token."`
	Relay  string `of:"access" name:"relay" default:"" placeholder:"URL" unit:"URL" group:"The relay" help:"The relay's URL, for the URL with a new token, such as wss://relay.example.com. None: wss:// and --domain."`

	Note    string `of:"access" name:"note" default:"" unit:"text" group:"The entry" help:"Note for people, such as the name of the owner."`
	Expires string `of:"access" name:"expires" default:"" unit:"date, time or duration" group:"The entry" help:"When the access ends: 2027-01-31 (its begin in UTC), 2027-01-31T18:00:00Z, or 720h from now. None: never."`
	Phones  int    `of:"access" name:"phones" default:"0" unit:"phones" group:"The entry" help:"Limit on its phones, if it is lower than --max-phones. 0: only --max-phones counts."`
	Rate    int    `of:"access" name:"rate" default:"0" unit:"per minute" group:"The entry" help:"Limit on its connection attempts per minute, from all addresses, of its binary and its phones together. 0: none."`

	IDs int `of:"access" name:"ids" default:"0" unit:"server-ids" group:"The entry" help:"Limit on the server-ids that a token may claim. 0: 8."`

	JSON bool `of:"access" name:"json" default:"false" unit:"true or false" group:"Output" help:"list prints one JSON array."`
}

// check returns all that is wrong with the options.
func (a *accessCommand) check() []config.Problem {
	var all problems
	all.unless(a.AccessFile != "" || actionProblem(a.Words) != nil, "access-file", "", "must be given", "it is the file that serve has as its --access-file; with --config it is read from there")
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
	all.unless(a.IDs >= 0 && a.IDs <= 10_000, "ids", a.IDs, "must be from 0 to 10000", "0 means 8")
	if a.Relay != "" {
		u, err := url.Parse(a.Relay)
		all.unless(err == nil && (u.Scheme == "ws" || u.Scheme == "wss") && u.Host != "" && strings.Trim(u.Path, "/") == "" && u.RawQuery == "", "relay", a.Relay,
			"must be a URL that begins with ws:// or wss://, names a host, and has no path", "for example wss://relay.example.com")
	}
	all.unless(a.Rate >= 0 && a.Rate <= 1_000_000, "rate", a.Rate, "must be from 0 to 1000000", "0 means no limit")
	return all
}

// expires returns the time of --expires.
func (a *accessCommand) expires(now time.Time) (time.Time, error) {
	if a.Expires == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(a.Expires); err == nil && d > 0 {
		return now.Add(d).UTC().Truncate(time.Second), nil
	}
	return access.ParseTime(a.Expires)
}

// run carries out one action. The error is one sentence for the user.
func (a *accessCommand) run(_ context.Context, c invocation) error {
	in, out := c.in, c.out
	words := a.Words
	if err := actionProblem(words); err != nil {
		return err
	}
	is := func(action ...string) bool {
		return len(words) >= len(action) && slices.Equal(words[:len(action)], action)
	}
	switch {
	case is("add"):
		return a.add(words[1], in, out)
	case is("remove"):
		return a.remove(func(text []byte) (access.Line, error) { return find(text, words[1], in) }, out)
	case is("token", "add"):
		return a.addToken(words[2], out)
	case is("token", "remove"):
		return a.remove(func(text []byte) (access.Line, error) { return findToken(text, words[2]) }, out)
	}
	return a.list(time.Now(), out)
}

// accessActions are the actions of access, with the name of their argument.
var accessActions = map[string]string{"add": "ID", "remove": "ID", "list": "", "token add": "NAME", "token remove": "NAME"}

// actionProblem returns the error for words that are no action, or that have too few or
// too many arguments. It returns nil for all others.
func actionProblem(words []string) error {
	const all = "the actions are access add ID, access remove ID, access list, access token add NAME and access token remove NAME"
	if len(words) == 0 {
		return usagef("the action is missing; %s", all)
	}
	n, known := 1, []string{"add", "remove", "list", "token"}
	if words[0] == "token" {
		if len(words) == 1 {
			return usagef("access token: the action is missing; %s", all)
		}
		n, known = 2, known[:2]
	}
	action := strings.Join(words[:n], " ")
	arg, ok := accessActions[action]
	switch rest := words[n:]; {
	case !ok:
		near := nearest(words[n-1], slices.Values(known), 0)
		if near == "" {
			return usagef("unknown action %q; %s", "access "+action, all)
		}
		return usagef("unknown action %q; did you mean access %s? %s", "access "+action, strings.Join(append(slices.Clone(words[:n-1]), near), " "), all)
	case arg == "" && len(rest) > 0:
		return usagef("access %s takes no argument, and got %q", action, rest[0])
	case arg != "" && len(rest) == 0:
		return usagef("access %s needs the argument %s", action, arg)
	case len(rest) > 1:
		return usagef("access %s takes one %s, and got %q as well; put quotes around an argument with spaces", action, arg, rest[1])
	}
	return nil
}

// add adds an entry for a server-id.
func (a *accessCommand) add(arg string, in io.Reader, out io.Writer) error {
	l, err := subjectOf(arg, in)
	if err != nil {
		return err
	}
	return a.enter(l, out)
}

// addToken adds an entry for a new token, and prints the URL with it.
func (a *accessCommand) addToken(name string, out io.Writer) error {
	if err := access.CheckName(name); err != nil {
		return usageError{err}
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
func (a *accessCommand) enter(l access.Line, out io.Writer) (err error) {
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
func (a *accessCommand) remove(which func(text []byte) (access.Line, error), out io.Writer) error {
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
func (a *accessCommand) said(done string, l access.Line, out io.Writer) {
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
func (a *accessCommand) edit(change func([]byte) ([]byte, error)) error {
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
			return l, usageError{err}
		}
		return l, nil
	}
	if arg, err = orStdin(arg, in); err != nil {
		return l, err
	}
	if arg == "" || len(arg) > 256 {
		return l, usagef("the server-id must have 1 to 256 bytes")
	}
	if access.HasControl(arg) {
		return l, usagef("the server-id %q has a control character, which no header can have", arg)
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
		return access.Line{}, usagef("%s: give at least %d digits of the hash", arg, leastPrefix)
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

// list prints the entries.
func (a *accessCommand) list(now time.Time, out io.Writer) error {
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
