package config

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Origin says where the value of an option came from. The zero value means the
// option's default.
type Origin struct {
	Flag bool   // the command line
	Env  string // an environment variable, by this name
	File string // a file
	Line int    // the line in File, from 1

	Supervisor bool // the address of a socket that the supervisor handed over
}

// Origins has the origins of options by name. Options that it does not have are at
// their default.
type Origins map[string]Origin

// String returns for example flag, PYRYCODE_RELAY_GRACE, relay.yml:3, supervisor or
// default.
func (o Origin) String() string {
	switch {
	case o.Flag:
		return "flag"
	case o.Env != "":
		return o.Env
	case o.File != "":
		return o.File + ":" + strconv.Itoa(o.Line)
	case o.Supervisor:
		return "supervisor"
	}
	return "default"
}

// Problem is one reason to refuse a configuration.
type Problem struct {
	Option string // name without dashes, such as grace
	Origin Origin
	Value  string // as given
	Rule   string // the rule that the value breaks
	Fix    string // the remedy
}

// Error returns one sentence such as
//
//	--grace "0s": must be more than 0s and at most 1h0m0s; the default is 30s
//
// The value of a secret option is withheld, and so is the user in a URL.
func (p Problem) Error() string {
	var b strings.Builder
	value := quote(withoutUsers(p.Value))
	if secrets()[p.Option] {
		value = Withheld
	}
	switch {
	case p.Origin.Env != "":
		fmt.Fprintf(&b, "%s=%s", p.Origin.Env, value)
	case p.Origin.File != "":
		fmt.Fprintf(&b, "%s: %s %s", p.Origin, p.Option, value)
	default:
		fmt.Fprintf(&b, "--%s %s", p.Option, value)
	}
	b.WriteString(": ")
	b.WriteString(oneLine(p.Rule))
	if p.Fix != "" {
		b.WriteString("; ")
		b.WriteString(p.Fix)
	}
	return b.String()
}

// Withheld stands where the value of a secret option would.
const Withheld = "(withheld)"

// secrets is the names of the options that are secrets.
var secrets = sync.OnceValue(func() map[string]bool {
	all := make(map[string]bool)
	for _, o := range Options() {
		all[o.Name] = o.Secret
	}
	return all
})

// maxRule is the number of bytes of a rule that are printed.
const maxRule = 1 << 10

// oneLine returns rule as one printable line. A rule can contain an error that
// quotes a file's name or content.
func oneLine(rule string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, rule[:min(len(rule), maxRule)])
}

// maxQuoted is the number of bytes of a bad value that are printed.
const maxQuoted = 80

func quote(s string) string {
	if len(s) > maxQuoted {
		return strconv.Quote(strings.ToValidUTF8(s[:maxQuoted], "")) + "…"
	}
	return strconv.Quote(s)
}

// Error is the error for a configuration that was refused. It has all its problems,
// so that the operator can fix them in one attempt.
type Error struct {
	Problems []Problem
}

// Error returns one line for each problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// ListenError is the error for an address on which the process cannot listen.
type ListenError struct {
	Option  string
	Address string
	Err     error
}

// Error returns one sentence, with the remedy if it is known.
func (e *ListenError) Error() string {
	s := fmt.Sprintf("cannot listen on %s (--%s): %v", e.Address, e.Option, reason(e.Err))
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE):
		s += "; end the program that uses it, or choose another port"
	case errors.Is(e.Err, syscall.EACCES):
		s += "; choose a port above 1023, or grant CAP_NET_BIND_SERVICE"
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		s += "; this machine has no such address"
	}
	return s
}

// Unwrap returns the cause.
func (e *ListenError) Unwrap() error { return e.Err }

// reason returns err without the text that package net adds, because the caller
// names the address.
func reason(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}
