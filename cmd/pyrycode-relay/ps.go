package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/status"
)

// listed selects connections of a running relay, for ps and top.
type listed struct {
	ServerID string `of:"ps" name:"server-id" unit:"text" group:"Selection" help:"Only those of this server-id, or of this fingerprint from the log. A single -: the first line of standard input, so that the server-id is in no list of processes."`
	Address  string `of:"ps" name:"address" unit:"address or network" group:"Selection" help:"Only those from this IP address or network, such as 192.0.2.0/24. An IPv6 address stands for its /64."`
	Kind     string `of:"ps" name:"kind" values:"binary,phone" unit:"binary or phone" group:"Selection" help:"Only binaries, or only phones."`
	State    string `of:"ps" name:"state" values:"claiming,serving,joined,parked,in_grace,proxied,closing" unit:"state" group:"Selection" help:"Only those in this state: claiming, serving, joined, parked, in_grace, proxied or closing."`
	IDs      string `of:"ps" name:"ids" default:"log" values:"log,full" unit:"log or full" group:"Output" help:"How to show server-ids: as the log does, or in full."`
}

// query returns the parameters of a request for the list. Errors are sentences.
func (l *listed) query(ctx context.Context, a *asker, in io.Reader) (url.Values, error) {
	q := make(url.Values)
	for name, value := range map[string]string{"address": l.Address, "kind": l.Kind, "state": l.State, "ids": l.IDs} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if l.ServerID == "" {
		return q, nil
	}
	id, err := orStdin(l.ServerID, in)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(id, "fp-") { // a server-id must not be in a URL
		if id, err = askFingerprint(ctx, a, id); err != nil {
			return nil, err
		}
	}
	q.Set("server", id)
	return q, nil
}

// list requests one list of connections.
func (a *asker) list(ctx context.Context, q url.Values) (list status.ConnectionList, err error) {
	q.Set("format", "json")
	err = a.fetch(ctx, "/connections?"+q.Encode(), &list)
	return list, err
}

// fetch requests a page with JSON. The error is a sentence.
func (a *asker) fetch(ctx context.Context, page string, into any) error {
	code, body, err := a.get(ctx, page)
	if err != nil {
		return err
	}
	path, _, _ := strings.Cut(page, "?")
	return a.parse(path, code, body, into)
}

// parse reads an answer with JSON. The error is a sentence, with the sentence of the
// answer if the relay refuses the request.
func (a *asker) parse(path string, code int, body []byte, into any) error {
	text := strings.TrimSpace(strings.ToValidUTF8(string(body[:min(len(body), 400)]), "?"))
	switch {
	case code == http.StatusNotFound:
		return fmt.Errorf("%s%s: HTTP 404; it is the public listener of a relay, or a relay of an earlier version; %s", a.base, path, usePrivate)
	case code == http.StatusBadRequest:
		return cli.Usagef("%s", text)
	case code == http.StatusConflict: // the request is right, and the state of the relay does not allow it
		return errors.New(text)
	case code != http.StatusOK:
		return fmt.Errorf("%s%s: HTTP %d: %s", a.base, path, code, text)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s%s: the answer is not that of a relay: %w; %s", a.base, path, err, usePrivate)
	}
	return nil
}

// psPage is the number of connections that ps requests at a time.
const psPage = 1000

// ps is the command ps.
type ps struct {
	operator
	listed

	Sort     string        `of:"ps" name:"sort" values:"rate,bytes,waiting" unit:"rate, bytes or waiting" group:"Output" help:"Show the first connections by bytes per second, by bytes, or by bytes that wait to be written. None: all, in the order of connecting."`
	Interval time.Duration `of:"ps" name:"interval" default:"1s" unit:"time" group:"Output" help:"With --sort rate: the time over which the rate is measured, up to 10s."`
	Limit    int           `of:"ps" name:"limit" default:"1000" unit:"connections" group:"Output" help:"Show no more connections. With --sort at most 1000."`
	JSON     bool          `of:"ps" name:"json" unit:"true or false" group:"Output" help:"Print one JSON object, as /connections has it."`
}

// check returns all problems of the options.
func (p *ps) check() []config.Problem {
	all := problems(p.operator.check())
	all.unless(p.Limit >= 1 && (p.Sort == "" || p.Limit <= psPage), "limit", p.Limit, "must be at least 1, and with --sort at most 1000", "the default is 1000")
	return all
}

// run prints the connections. The error is a sentence.
func (p *ps) run(ctx context.Context, c invocation) error {
	a, err := p.asker(p.AnswerTimeout + p.Interval)
	if err != nil {
		return err
	}
	q, err := p.query(ctx, a, c.in)
	if err != nil {
		return err
	}
	all, err := p.all(ctx, a, q)
	if err != nil {
		return err
	}
	if p.JSON {
		return json.NewEncoder(c.out).Encode(all)
	}
	return printConnections(c.out, all)
}

// all requests lists until there are no further connections, or Limit.
func (p *ps) all(ctx context.Context, a *asker, q url.Values) (all status.ConnectionList, err error) {
	if p.Sort != "" {
		q.Set("sort", p.Sort)
		q.Set("interval", p.Interval.String())
	}
	for page := 0; ; page++ {
		q.Set("limit", strconv.Itoa(min(psPage, p.Limit-len(all.Connections))))
		list, err := a.list(ctx, q)
		if err != nil {
			return all, err
		}
		if page == 0 {
			all = list
		} else {
			all.Connections, all.Next = append(all.Connections, list.Connections...), list.Next
		}
		if all.Next == "" || len(all.Connections) >= p.Limit {
			return all, nil
		}
		q.Set("cursor", all.Next)
	}
}

// printConnections prints a table of the connections, and the slots in grace below it.
func printConnections(out io.Writer, all status.ConnectionList) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	writeRows(t, all)
	if err := t.Flush(); err != nil {
		return err
	}
	for _, g := range all.InGrace {
		fmt.Fprintf(out, "in grace: %s, for %s more, with %s\n", g.ServerID, span(g.Ends.Sub(all.Now)), plural(g.Phones, "phone"))
	}
	if more := all.InGraceTotal - len(all.InGrace); more > 0 {
		fmt.Fprintf(out, "in grace: %d more\n", more)
	}
	if all.Next != "" {
		fmt.Fprintf(out, "there are more connections; --limit shows more than %d\n", len(all.Connections))
	}
	if all.Node != "" {
		fmt.Fprintf(out, "these are the connections of node %s; --at with the private listener of another node shows those of that node\n", all.Node)
	}
	return nil
}

// writeRows writes the cells of the table, separated by tabs.
func writeRows(out io.Writer, all status.ConnectionList) {
	rates := len(all.Connections) > 0 && all.Connections[0].Rate != nil
	head := "CONN\tKIND\tSTATE\tSERVER-ID\tFROM\tFOR\tHEARD\tIN\tOUT\tWAITING"
	if rates {
		head += "\tPER SECOND"
	}
	fmt.Fprintln(out, head)
	for _, c := range all.Connections {
		heard := "-"
		if c.LastHeard != nil {
			heard = span(all.Now.Sub(*c.LastHeard))
		}
		state := c.State
		switch {
		case c.GraceEnds != nil:
			state += " " + span(c.GraceEnds.Sub(all.Now))
		case c.Kind == "binary" && c.State == "serving":
			state += " " + strconv.Itoa(c.Phones)
		}
		from := c.Address
		if c.Node != "" {
			from += " " + c.Node
		}
		row := []string{c.Conn, c.Kind, state, c.ServerID, from, span(all.Now.Sub(c.Since)), heard,
			traffic(c.In), traffic(c.Out), size(float64(c.Waiting))}
		if rates {
			row = append(row, size(c.Rate.Bytes()))
		}
		fmt.Fprintln(out, strings.Join(row, "\t"))
	}
}

// traffic returns the frames and bytes of one direction.
func traffic(c status.Count2) string { return fmt.Sprintf("%d/%s", c.Frames, size(float64(c.Bytes))) }

// size returns a number of bytes in its largest unit.
func size(n float64) string {
	unit := 0
	for n >= 1000 && unit < 4 {
		n /= 1024
		unit++
	}
	if unit == 0 || n >= 10 {
		return fmt.Sprintf("%.0f%s", n, [...]string{"B", "KiB", "MiB", "GiB", "TiB"}[unit])
	}
	return fmt.Sprintf("%.1f%s", n, [...]string{"B", "KiB", "MiB", "GiB", "TiB"}[unit])
}

// span returns a duration in its largest unit, or in two for hours and days.
func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if strings.HasSuffix(what, "y") {
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(what, "y"))
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// orStdin returns text, or for a single - the first line of in.
func orStdin(text string, in io.Reader) (string, error) {
	if text != "-" {
		return text, nil
	}
	all, err := io.ReadAll(io.LimitReader(in, 1<<10))
	if err != nil {
		return "", fmt.Errorf("cannot read the server-id from standard input: %w", err)
	}
	line, _, _ := strings.Cut(string(all), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}
