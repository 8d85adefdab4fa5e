package main

import (
	"bytes"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// entry is one option in a file that is not valid YAML as a whole: its first line, and the
// following lines that belong to it.
type entry struct {
	line  int // number of the first line, from 1
	lines []string
}

// entries splits a file into entries by the left edge of its lines. It reports bytes that
// are not text, and a second document.
func (f *configFile) entries(text []byte) (all []entry) {
	text = bytes.TrimPrefix(text, []byte("\uFEFF"))
	ended := 0 // number of the line ... if nothing follows it so far; else 0
	edge := -1 // indent of the first entry
	for i, line := range strings.Split(strings.ReplaceAll(string(text), "\r", "\n"), "\n") {
		line = f.printable(i+1, line)
		content := strings.TrimSpace(line)
		indent := len(line) - len(strings.TrimLeft(line, " \t"))
		switch {
		case content == "" || strings.HasPrefix(content, "#"):
			if n := len(all); n > 0 { // keeps the line numbers of the entry right
				all[n-1].lines = append(all[n-1].lines, "")
			}
		case isMark(line, "..."):
			ended = i + 1
			if n := len(all); n > 0 {
				all[n-1].lines = append(all[n-1].lines, "")
			}
		case isMark(line, "---"):
			if len(all) > 0 {
				ended = 0 // reported here
				f.complain(i+1, "must be one document; take out the line --- and what follows")
				all[len(all)-1].lines = append(all[len(all)-1].lines, "")
			}
		case strings.HasPrefix(line, "%YAML ") && len(all) == 0:
		case ended > 0:
			f.complain(ended, "ends the document, and options follow; take out the line ...")
			ended = 0
			fallthrough
		case edge < 0 || indent <= edge && !isItem(content):
			if edge < 0 {
				edge = indent
			}
			all = append(all, entry{i + 1, []string{line}})
		default:
			n := len(all) - 1
			all[n].lines = append(all[n].lines, line)
		}
	}
	return all
}

// isMark reports whether a line consists of mark, which begins or ends a document.
func isMark(line, mark string) bool {
	rest, ok := strings.CutPrefix(line, mark)
	return ok && (rest == "" || rest[0] == ' ' || rest[0] == '\t')
}

// isItem reports whether a line is an item of a list.
func isItem(content string) bool { return content == "-" || strings.HasPrefix(content, "- ") }

// printable returns the line without the characters that a configuration may not have,
// and reports each of them.
func (f *configFile) printable(line int, text string) string {
	if !utf8.ValidString(text) {
		f.complain(line, "has bytes that are no UTF-8; save the file as UTF-8")
		text = strings.ToValidUTF8(text, "?")
	}
	control := func(r rune) bool { return unicode.IsControl(r) && r != '\t' }
	if i := strings.IndexFunc(text, control); i >= 0 {
		r, _ := utf8.DecodeRuneInString(text[i:])
		f.complain(line, "has the control character %U; take it out", r)
		text = strings.Map(func(r rune) rune {
			if control(r) {
				return -1
			}
			return r
		}, text)
	}
	return text
}

// anOption matches a line that begins with the name of an option and a colon.
var anOption = regexp.MustCompile(`^\s*([a-z][a-z0-9.-]*)\s*:(?:\s|$)`)

// entry records one entry, or reports its errors. In YAML, an option with a deeper indent
// than the option above belongs to that option's value. Here it is reported, and read as
// an option of its own.
func (f *configFile) entry(e entry) {
	if isMapping(e.lines) {
		f.piece(e)
		return
	}
	begin := 0
	for i, line := range e.lines {
		if m := anOption.FindStringSubmatch(line); i > 0 && m != nil && f.known[m[1]] != nil {
			if !strings.HasPrefix(line, "\t") { // piece reports a tab
				f.complain(e.line+i, "%s begins further to the right than the option above; begin it at the left edge", m[1])
				e.lines[i] = strings.TrimSpace(line)
			}
			f.piece(entry{e.line + begin, e.lines[begin:i]})
			begin = i
		}
	}
	f.piece(entry{e.line + begin, e.lines[begin:]})
}

// piece records an entry with at most one option, or reports its errors.
func (f *configFile) piece(e entry) {
	first := strings.TrimLeft(e.lines[0], " \t")
	if strings.Contains(e.lines[0][:len(e.lines[0])-len(first)], "\t") {
		f.complain(e.line, "begins with a tab; begin options at the left edge, without one")
		e.lines = append([]string{first}, e.lines[1:]...)
	}
	root, err := parsePiece(e.lines)
	switch {
	case err == nil && root.Kind == yaml.MappingNode:
		f.takeAll(root, e.line-1)
	case isItem(first):
		f.complain(e.line, "must be lines of option: value; for example grace: 30s")
	default:
		f.explain(e, err)
	}
}

// isMapping reports whether lines alone are a mapping.
func isMapping(lines []string) bool {
	root, err := parsePiece(lines)
	return err == nil && root.Kind == yaml.MappingNode
}

// parsePiece parses consecutive lines of the file.
func parsePiece(lines []string) (*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(strings.Join(lines, "\n")+"\n"), &doc); err != nil {
		return nil, err
	}
	if doc.Kind == 0 {
		return &doc, nil
	}
	return doc.Content[0], nil
}

// explain reports the error of an entry that is not an option with its value. If the
// intended value is clear, it records this value, so that the value is validated too. It
// never repeats a value, because the value may be a secret.
func (f *configFile) explain(e entry, err error) {
	name, value, colon := strings.Cut(strings.TrimSpace(e.lines[0]), ":")
	name = strings.TrimSpace(name)
	spaced := value == "" || value[0] == ' ' || value[0] == '\t'
	value = strings.TrimSpace(value)
	take := func(value string) {
		alone := strings.TrimSpace(strings.Join(e.lines[1:], "")) == ""
		if _, seen := f.values[name]; f.known[name] != nil && !seen && alone && value != "" {
			f.values[name] = fileValue{text: value, line: e.line}
		}
	}
	if before, _, found := strings.Cut(name, "="); !colon || found && f.known[strings.TrimSpace(before)] != nil {
		f.complain(e.line, "must be option: value; for example grace: 30s")
		return
	}
	if !spaced && f.known[name] != nil {
		f.complain(e.line, "%s: a space must stand behind the colon", name)
		take(value)
		return
	}
	for i, line := range e.lines[1:] {
		if indent := line[:len(line)-len(strings.TrimLeft(line, " \t"))]; strings.Contains(indent, "\t") {
			f.complain(e.line+i+1, "begins with a tab; YAML takes spaces only")
			return
		}
	}
	whole := strings.Join(e.lines, " ")
	if value != "" && value[0] == '[' && !strings.Contains(whole, "]") {
		f.complain(e.line, "%s: the list that begins with [ has no end; close it with ]", name)
		return
	}
	if line := e.oddItem(); line > 0 {
		f.complain(line, "%s: the item begins with what means something else in YAML; put the whole item in quotes", name)
		return
	}
	if why := odd(value, whole); why != "" {
		f.complain(e.line, "%s: %s", name, why)
		if unquoted := strings.TrimLeft(value, `"'`); !strings.ContainsAny(unquoted, `"'`) {
			take(unquoted)
		}
		return
	}
	for i, line := range e.lines[1:] {
		item, ok := strings.CutPrefix(strings.TrimSpace(line), "- ")
		if why := odd(strings.TrimSpace(item), line); ok && why != "" {
			f.complain(e.line+i+1, "%s: %s", name, why)
			return
		}
	}
	reason := "it is no option and its value"
	if err != nil {
		reason = regexp.MustCompile(`^yaml: (line \d+: )?`).ReplaceAllString(err.Error(), "")
	}
	f.complain(e.line, "%.80q: %.200s; a line is like grace: 30s", name, reason)
}

// oddItem looks at a list in brackets over several lines. It returns the line of the
// first item that needs quotes, or 0 if it finds none.
func (e entry) oddItem() int {
	if _, value, _ := strings.Cut(e.lines[0], ":"); !strings.HasPrefix(strings.TrimSpace(value), "[") {
		return 0
	}
	for i, line := range e.lines[1:] {
		for item := range strings.SplitSeq(line, ",") {
			if item = strings.TrimSpace(item); item != "" && strings.ContainsRune("*&!|>%@`{", rune(item[0])) {
				return e.line + i + 1
			}
		}
	}
	return 0
}

// odd returns the probable reason why the value in lines cannot be parsed, or "" if no
// reason is clear.
func odd(value, lines string) string {
	switch {
	case value == "":
		return ""
	case value[0] == '"' || value[0] == '\'':
		if strings.Count(lines, value[:1]) < 2 {
			return "the quote " + value[:1] + " that begins the value has no end; close it"
		}
		return `the value in quotes is no value of YAML; nothing may stand behind the closing quote, and in "double quotes" a \ begins an escape`
	case strings.ContainsRune("*&!|>%@`[]{},?-", rune(value[0])):
		return "the value begins with " + value[:1] + ", which means something else in YAML; put the whole value in quotes"
	case strings.Contains(value, ": ") || strings.HasSuffix(value, ":"):
		return "the value has a colon with a space behind it, which means something else in YAML; put the whole value in quotes"
	}
	return ""
}
