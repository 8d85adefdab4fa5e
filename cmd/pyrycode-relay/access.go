package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	Words []string `arg:"" optional:"" name:"what" help:"add ID, remove ID, or list. ID is a server-id, sha256: and its hash, or - for the first line of standard input, so that the server-id is in no list of processes. remove also takes the beginning of a hash, as list shows it."`

	ConfigFile string `name:"config" default:"" placeholder:"FILE" unit:"file" group:"The relay" help:"The file that serve reads."`
	Access     string `name:"access" default:"open" unit:"open or list" group:"The relay" help:"The --access of serve."`
	AccessFile string `name:"access-file" default:"" placeholder:"FILE" unit:"file" group:"The relay" help:"The --access-file of serve: the file to edit."`

	Note    string `of:"access" name:"note" default:"" unit:"text" group:"The entry" help:"Note for people, such as whose server-id it is."`
	Expires string `of:"access" name:"expires" default:"" unit:"date, time or duration" group:"The entry" help:"When the access ends: 2027-01-31 (its begin in UTC), 2027-01-31T18:00:00Z, or 720h from now. None: never."`
	Phones  int    `of:"access" name:"phones" default:"0" unit:"phones" group:"The entry" help:"Limit on its phones, if it is lower than --max-phones. 0: only --max-phones counts."`
	Rate    int    `of:"access" name:"rate" default:"0" unit:"per minute" group:"The entry" help:"Limit on its connection attempts per minute, from all addresses, of its binary and its phones together. 0: none."`

	JSON bool `of:"access" name:"json" default:"false" unit:"true or false" group:"Output" help:"list prints one JSON array."`
}

// action returns the action and its argument.
func (a *accessCommand) action() (action, arg string) {
	words := append(slices.Clone(a.Words), "", "")
	return words[0], words[1]
}

// check returns all that is wrong with the options.
func (a *accessCommand) check() (all []config.Problem) {
	add := func(ok bool, option, value, rule, fix string) {
		if !ok {
			all = append(all, config.Problem{Option: option, Value: value, Rule: rule, Fix: fix})
		}
	}
	add(a.AccessFile != "", "access-file", "", "must be given", "it is the file that serve has as its --access-file; with --config it is read from there")
	if a.Expires != "" {
		_, err := a.expires(time.Now())
		add(err == nil, "expires", a.Expires, "must be a date, a time or a duration", "for example 2027-01-31, 2027-01-31T18:00:00Z or 720h")
	}
	if err := access.CheckNote(a.Note); err != nil {
		add(false, "note", a.Note, err.Error(), "for example Anna's laptop")
	}
	add(a.Phones >= 0 && a.Phones <= 10_000, "phones", fmt.Sprint(a.Phones), "must be from 0 to 10000", "0 means no limit of its own")
	add(a.Rate >= 0 && a.Rate <= 1_000_000, "rate", fmt.Sprint(a.Rate), "must be from 0 to 1000000", "0 means no limit")
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
func (a *accessCommand) run(in io.Reader, out io.Writer) error {
	action, arg := a.action()
	switch {
	case action == "add" && len(a.Words) == 2:
		return a.add(arg, in, out)
	case action == "remove" && len(a.Words) == 2:
		return a.remove(arg, in, out)
	case action == "list" && len(a.Words) == 1:
		return a.list(time.Now(), out)
	}
	return errors.New("what to do is missing or unknown: access add ID, access remove ID, or access list")
}

// add adds an entry for a server-id.
func (a *accessCommand) add(arg string, in io.Reader, out io.Writer) error {
	l, err := subjectOf(arg, in)
	if err != nil {
		return err
	}
	end, err := a.expires(time.Now())
	if err != nil {
		return err
	}
	l.Note, l.Entry = a.Note, access.Entry{Phones: a.Phones, Rate: a.Rate, Expires: end}
	err = a.edit(func(text []byte) ([]byte, error) { return access.Add(text, l) })
	if err != nil {
		return err
	}
	a.said("added", l, out)
	return nil
}

// remove removes the entry of a server-id.
func (a *accessCommand) remove(arg string, in io.Reader, out io.Writer) error {
	var gone access.Line
	err := a.edit(func(text []byte) (_ []byte, err error) {
		if gone, err = find(text, arg, in); err != nil {
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
	if a.Access == config.AccessOpen {
		fmt.Fprintln(out, "note: --access is open here, and with it serve reads no such file; run serve with --access list")
	}
}

// short returns the text that stands for the subject of l: the beginning of its hash.
func short(l access.Line) string { return "sha256:" + l.Subject.String()[:12] }

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
	switch {
	case arg == "-":
		text, err := bufio.NewReader(io.LimitReader(in, 1<<10)).ReadString('\n')
		if err != nil && err != io.EOF {
			return l, fmt.Errorf("cannot read the server-id from standard input: %w", err)
		}
		arg = strings.TrimRight(text, "\r\n")
	case strings.HasPrefix(arg, "sha256:"):
		return access.ParseLine(arg)
	}
	if arg == "" || len(arg) > 256 {
		return l, errors.New("the server-id must have 1 to 256 bytes")
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
	if digits, ok := strings.CutPrefix(arg, "sha256:"); ok && len(digits) >= leastPrefix && len(digits) < 64 {
		return only(lines, func(l access.Line) bool { return strings.HasPrefix(l.Subject.String(), strings.ToLower(digits)) })
	}
	want, err := subjectOf(arg, in)
	if err != nil {
		return access.Line{}, err
	}
	return only(lines, func(l access.Line) bool { return l.Subject == want.Subject })
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
	Subject string     `json:"sha256"`
	Note    string     `json:"note,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
	Expired bool       `json:"expired"`
	Phones  int        `json:"phones,omitempty"`
	Rate    int        `json:"rate,omitempty"`
}

// list prints the entries.
func (a *accessCommand) list(now time.Time, out io.Writer) error {
	text, err := config.ReadFile(a.AccessFile, access.MaxFile, false)
	if err != nil {
		return fmt.Errorf("%s: %w", a.AccessFile, withoutName(err))
	}
	if _, err := access.ParseBook(text, access.ServerIDs); err != nil {
		return fmt.Errorf("%s: %w", a.AccessFile, err)
	}
	lines, err := access.Lines(text)
	if err != nil {
		return err
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
		all[i] = accessEntry{Subject: l.Subject.String(), Note: l.Note, Phones: l.Phones, Rate: l.Rate}
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
