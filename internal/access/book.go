package access

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// MaxFile is the length in bytes of the longest file that ParseBook accepts. A file of
// 100,000 hashes with notes has about 10 MiB.
const MaxFile = 32 << 20

// Kind is the kind of the subjects of a Book.
type Kind int

// Kinds of subjects.
const (
	ServerIDs Kind = iota + 1 // for --access list
	Tokens                    // for --access tokens
)

// Subject is the SHA-256 of a server-id or of a token.
type Subject [sha256.Size]byte

// SubjectOf returns the subject of a server-id or of a token.
func SubjectOf[S ~string](text S) Subject { return sha256.Sum256([]byte(text)) }

// String returns the subject in hexadecimal.
func (s Subject) String() string { return hex.EncodeToString(s[:]) }

// Entry is what one line of the file grants.
type Entry struct {
	Name    string    // of a token
	MaxIDs  int       // of a token: the server-ids that it may claim; 0: DefaultMaxIDs
	Phones  int       // limit on the phones of one server-id; 0: the relay's own limit
	Rate    int       // connection attempts per minute, of binaries and phones together; 0: no limit
	Expires time.Time // zero: never
}

// DefaultMaxIDs is the number of server-ids that a token may claim if its line does not
// say otherwise.
const DefaultMaxIDs = 8

// expired reports whether the entry has ended by now.
func (e Entry) expired(now time.Time) bool { return !e.Expires.IsZero() && !now.Before(e.Expires) }

// Book is the parsed content of the file of --access-file. It does not change.
type Book struct {
	kind    Kind
	entries map[Subject]Entry
	ends    []time.Time // of the entries that expire, sorted
}

// Len returns the number of entries.
func (b *Book) Len() int { return len(b.entries) }

// Expired returns the number of entries that have ended by now.
func (b *Book) Expired(now time.Time) int {
	n, _ := slices.BinarySearchFunc(b.ends, now, func(end, now time.Time) int {
		if end.After(now) {
			return 1
		}
		return -1
	})
	return n
}

// nextEnd returns the time of the first expiry after now. ok is false if there is none.
func (b *Book) nextEnd(now time.Time) (end time.Time, ok bool) {
	if n := b.Expired(now); n < len(b.ends) {
		return b.ends[n], true
	}
	return end, false
}

// maxProblems is the number of problems of one file that its error names.
const maxProblems = 5

// ErrEmpty is the error of ParseBook for a file without content.
var ErrEmpty = errors.New("it is empty: a list with no entry needs a line with a comment, which begins with #")

// ParseBook parses the content of a file with subjects of that kind. Its lines are
//
//	SUBJECT [phones=N] [rate=N] [expires=DATE] [# NOTE]
//
// where SUBJECT is a server-id or sha256: and its hash. In a file of tokens SUBJECT is
// token: and a hash, and the line has name=NAME and may have ids=N. Empty lines and lines
// that begin with # are comments. The last line must end with a newline, because a file
// that does not may have been cut off.
//
// The error names lines. It contains no server-id and no hash.
func ParseBook(text []byte, kind Kind) (*Book, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // some editors write a byte order mark
	switch {
	case len(text) == 0:
		return nil, ErrEmpty
	case len(text) > MaxFile:
		return nil, fmt.Errorf("it has more than %d MiB", MaxFile>>20)
	case text[len(text)-1] != '\n':
		return nil, fmt.Errorf("line %d, its last one, does not end with a newline, so the file may have been cut off", bytes.Count(text, []byte("\n"))+1)
	}
	b := &Book{kind: kind, entries: make(map[Subject]Entry, bytes.Count(text, []byte("\n")))}
	names := make(map[string]int)
	lines := make(map[Subject]int)
	var problems []string
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		l, err := ParseLine(line)
		if l.Comment && err == nil {
			continue
		}
		if err == nil {
			err = b.add(l, n, lines, names)
		}
		if err == nil {
			continue
		}
		if len(problems) == maxProblems {
			problems = append(problems, "and more")
			break
		}
		problems = append(problems, fmt.Sprintf("line %d: %v", n, err))
	}
	if problems != nil {
		return nil, errors.New(strings.Join(problems, "; "))
	}
	slices.SortFunc(b.ends, time.Time.Compare)
	return b, nil
}

// add enters line l, which is line n of the file. lines and names have the lines of the
// subjects and names so far.
func (b *Book) add(l Line, n int, lines map[Subject]int, names map[string]int) error {
	switch {
	case b.kind == ServerIDs && l.Token:
		return errors.New("a token, in a file for --access list: it must have server-ids only")
	case b.kind == Tokens && !l.Token:
		return errors.New("no token: a line of a file for --access tokens must begin with token: and a SHA-256")
	}
	if first, ok := lines[l.Subject]; ok {
		return fmt.Errorf("the same entry as in line %d", first)
	}
	if first, ok := names[l.Name]; ok && l.Token {
		return fmt.Errorf("the same name as in line %d", first)
	}
	lines[l.Subject], names[l.Name] = n, n
	b.entries[l.Subject] = l.Entry
	if !l.Expires.IsZero() {
		b.ends = append(b.ends, l.Expires)
	}
	return nil
}

// Line is one line of the file.
type Line struct {
	Comment bool // it has no entry; all other fields are zero
	Token   bool // its subject is a token
	Hashed  bool // it has the hash of a server-id and not the server-id
	Subject Subject
	Entry
	Note string
}

const (
	hashPrefix  = "sha256:"
	tokenPrefix = "token:"
)

// ParseLine parses one line of the file, with or without its newline.
func ParseLine(text string) (l Line, err error) {
	text = strings.TrimSpace(text)
	if text == "" || text[0] == '#' {
		return Line{Comment: true}, nil
	}
	for i := 1; i < len(text); i++ {
		if text[i] == '#' && (text[i-1] == ' ' || text[i-1] == '\t') {
			l.Note = strings.TrimSpace(text[i+1:])
			text = text[:i]
			break
		}
	}
	fields := strings.Fields(text)
	if err := l.setSubject(fields[0]); err != nil {
		return l, err
	}
	for _, f := range fields[1:] {
		key, value, _ := strings.Cut(f, "=")
		if err := l.set(key, value); err != nil {
			return l, err
		}
	}
	if l.Token && l.Name == "" {
		return l, errors.New("name: a token needs one, such as name=anna")
	}
	return l, nil
}

// HasControl reports whether text has a control character. No header, and so no server-id
// of a claim, can have one.
func HasControl(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// setSubject sets the subject of l to that of the first field of its line.
func (l *Line) setSubject(field string) error {
	digits, isHash := strings.CutPrefix(field, hashPrefix)
	if !isHash {
		digits, l.Token = strings.CutPrefix(field, tokenPrefix)
	}
	if l.Hashed = isHash || l.Token; !l.Hashed {
		if len(field) > wire.MaxServerID {
			return fmt.Errorf("a server-id of more than %d bytes, which the relay refuses", wire.MaxServerID)
		}
		if HasControl(field) {
			return errors.New("a server-id with a control character, which no header can have")
		}
		l.Subject = SubjectOf(field)
		return nil
	}
	sum, err := hex.DecodeString(digits)
	if err != nil || len(sum) != len(l.Subject) {
		return errors.New("a SHA-256 must have 64 hexadecimal digits")
	}
	copy(l.Subject[:], sum)
	return nil
}

// Limits of the values of options.
const (
	maxPhones = 10_000
	maxRate   = 1_000_000
	maxIDs    = 10_000
)

// set sets one option of l.
func (l *Line) set(key, value string) (err error) {
	switch {
	case key == "phones":
		l.Phones, err = number(key, value, maxPhones)
	case key == "rate":
		l.Rate, err = number(key, value, maxRate)
	case key == "expires":
		l.Expires, err = ParseTime(value)
	case key == "name" && l.Token:
		l.Name, err = value, CheckName(value)
	case key == "ids" && l.Token:
		l.MaxIDs, err = number(key, value, maxIDs)
	default:
		err = fmt.Errorf("an option that does not exist; the options are phones=, rate= and expires=, and of a token name= and ids=; a note begins with #")
	}
	return err
}

func number(key, value string, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("%s: must be a whole number from 1 to %d", key, most)
	}
	return n, nil
}

// CheckName checks the name of a token.
func CheckName(name string) error {
	if name == "" || len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.@", r))
	}) {
		return errors.New("name: must have 1 to 64 letters, digits or -_.@")
	}
	return nil
}

// ParseTime parses the time of an expiry: a date, which stands for its begin in UTC, or a
// time in the form of RFC 3339.
func ParseTime(text string) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil && t.Year() >= 1970 && t.Year() < 2200 {
			return t.UTC(), nil
		}
	}
	return time.Time{}, errors.New("expires: must be a date such as 2027-01-31, or a time such as 2027-01-31T18:00:00Z")
}

// FormatTime returns the shortest text that ParseTime parses as t.
func FormatTime(t time.Time) string {
	if t = t.UTC(); t.Equal(t.Truncate(24 * time.Hour)) {
		return t.Format(time.DateOnly)
	}
	return t.Format(time.RFC3339)
}
