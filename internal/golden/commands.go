package golden

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Commands calls parse with the arguments of each command line of program that README.md
// and the pages below docs print as a line of its own, and fails if parse returns an
// error, or if there are fewer than least such lines.
func Commands(t testing.TB, program string, least int, parse func(args []string) error) {
	t.Helper()
	seen := 0
	for name, page := range Pages(t) {
		for _, line := range printedLine.FindAllStringSubmatch(strings.ReplaceAll(page, "\\\n", " "), -1) {
			args, ok := argumentsOf(line[1], program)
			if !ok {
				continue
			}
			seen++
			if err := parse(args); err != nil {
				t.Errorf("%s prints %q: %v", name, strings.TrimSpace(line[1]), err)
			}
		}
	}
	if seen < least {
		t.Errorf("only %d command lines of %s seen on the pages; want %d", seen, program, least)
	}
}

// Pages returns README.md and all pages below docs, by their paths from the root of the
// module.
func Pages(t testing.TB) map[string]string {
	t.Helper()
	top, all := root(t), make(map[string]string)
	add := func(name string) error {
		text, err := os.ReadFile(filepath.Join(top, name))
		all[filepath.ToSlash(name)] = string(text)
		return err
	}
	err := add("README.md")
	if err == nil {
		err = fs.WalkDir(os.DirFS(top), "docs", func(name string, _ fs.DirEntry, err error) error {
			if err == nil && filepath.Ext(name) == ".md" {
				err = add(name)
			}
			return err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var (
	// printedLine is a line of code on a page: indented, or behind a prompt.
	printedLine = regexp.MustCompile(`(?m)^(?: {4}|\s*\$ )(.*)$`)

	// word is a part of a command line. The characters that end a command, and a comment,
	// are words of their own.
	word = regexp.MustCompile(`(?:"[^"]*"|'[^']*'|[^\s"'#&|<>;]|\S#)+|[#&|<>;]`)

	assignment = regexp.MustCompile(`^[A-Z_]+=`)
)

// argumentsOf returns the arguments of a command line of program. It reports false for
// other lines. An ellipsis stands for arguments that the page leaves out.
func argumentsOf(line, program string) (args []string, ok bool) {
	words := word.FindAllString(line, -1)
	for len(words) > 0 && (words[0] == "sudo" || words[0] == "$" || assignment.MatchString(words[0])) {
		words = words[1:]
	}
	switch {
	case len(words) > 2 && words[0] == "go" && words[1] == "run" && words[2] == "./cmd/"+program:
		words = words[3:]
	case len(words) > 1 && path.Base(words[0]) == program && !strings.HasPrefix(words[0], "cmd/"):
		words = words[1:]
	default:
		return nil, false
	}
	for _, w := range words {
		if strings.ContainsAny(w[:1], "#&|<>;") {
			break
		}
		if w != "…" {
			args = append(args, strings.NewReplacer(`"`, "", "'", "").Replace(w))
		}
	}
	return args, true
}
