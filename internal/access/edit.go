package access

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/replacefile"
)

// header is the beginning of a file that Edit creates.
const header = `# The server-ids or tokens that may use this relay, one per line.
# The command "pyrycode-relay access" changes this file; docs/access.md has its format.
`

// FormatLine returns the line of an entry, with its newline. The subject is always written
// as a hash, so that the file has no secret.
func FormatLine(l Line) string {
	var b strings.Builder
	if l.Token {
		fmt.Fprintf(&b, "%s%s name=%s", tokenPrefix, l.Subject, l.Name)
	} else {
		fmt.Fprintf(&b, "%s%s", hashPrefix, l.Subject)
	}
	for _, o := range []struct {
		key   string
		value int
	}{{"ids", l.MaxIDs}, {"phones", l.Phones}, {"rate", l.Rate}} {
		if o.value > 0 {
			fmt.Fprintf(&b, " %s=%d", o.key, o.value)
		}
	}
	if !l.Expires.IsZero() {
		fmt.Fprintf(&b, " expires=%s", FormatTime(l.Expires))
	}
	if l.Note != "" {
		fmt.Fprintf(&b, "  # %s", l.Note)
	}
	return b.String() + "\n"
}

// CheckNote checks the note of an entry.
func CheckNote(note string) error {
	if len(note) > 200 || HasControl(note) {
		return errors.New("must have at most 200 bytes and no control characters")
	}
	return nil
}

// Add returns text with a line for l at its end. It is an error if text has an entry with
// the same subject or, of tokens, with the same name. text must be good.
func Add(text []byte, l Line) ([]byte, error) {
	err := eachEntry(text, func(o Line) error {
		switch {
		case o.Token != l.Token:
			return errors.New("the file has entries of the other kind: server-ids and tokens must be in separate files")
		case o.Subject == l.Subject:
			return errors.New("it has an entry in the file already; remove it first to change it")
		case l.Token && o.Name == l.Name:
			return fmt.Errorf("a token with the name %s exists already; remove it first, or choose another name", l.Name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	next := bytes.Clone(text)
	switch {
	case len(next) == 0:
		next = []byte(header)
	case next[len(next)-1] != '\n':
		next = append(next, '\n')
	}
	return append(next, FormatLine(l)...), nil
}

// ErrNoEntry is the error of Remove if no entry matches.
var ErrNoEntry = errors.New("the file has no such entry")

// Remove returns text without the entries for which match returns true.
func Remove(text []byte, match func(Line) bool) ([]byte, error) {
	var rest []byte
	found := false
	for line := range strings.Lines(string(text)) {
		if l, err := ParseLine(line); err == nil && !l.Comment && match(l) {
			found = true
			continue
		}
		rest = append(rest, line...)
	}
	switch {
	case !found:
		return nil, ErrNoEntry
	case len(rest) == 0:
		return []byte(header), nil // the relay refuses an empty file
	}
	return rest, nil
}

// Lines returns the entries of text in their order.
func Lines(text []byte) (all []Line, err error) {
	err = eachEntry(text, func(l Line) error {
		all = append(all, l)
		return nil
	})
	return all, err
}

// eachEntry calls f with each entry of text. It returns the first error.
func eachEntry(text []byte, f func(l Line) error) error {
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		l, err := ParseLine(line)
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if !l.Comment {
			err = f(l)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// EditFile replaces the content of the file name by the result of change, in one step: a
// reader sees the old content or the new one. A file that does not exist counts as empty.
// Concurrent calls for files of one directory come one after the other. The file keeps its
// mode and owner.
func EditFile(name string, change func(text []byte) ([]byte, error)) error {
	if target, err := filepath.EvalSymlinks(name); err == nil {
		name = target // replaces the file, not the link to it
	} else if _, link := os.Lstat(name); link == nil {
		return fmt.Errorf("it is a link to a file that does not exist: %w", err)
	}
	dir := filepath.Dir(name)
	unlock, err := lockDir(dir)
	if err != nil {
		return fmt.Errorf("lock the directory %s: %w", dir, err)
	}
	defer unlock()
	info, err := os.Stat(name)
	var text []byte
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("it is not a regular file")
	case info.Size() > MaxFile:
		return fmt.Errorf("it has more than %d MiB", MaxFile>>20)
	default:
		if text, err = os.ReadFile(name); err != nil {
			return err
		}
	}
	next, err := change(text)
	if err != nil {
		return err
	}
	return replacefile.Write(name, next, func(f *os.File) error {
		mode := fs.FileMode(0o644) // it has hashes only
		if info != nil {
			mode = info.Mode().Perm()
			if err := keepOwner(f, info); err != nil {
				return fmt.Errorf("keep its owner: %w", err)
			}
		}
		return f.Chmod(mode)
	})
}
