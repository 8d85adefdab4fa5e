package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// maxConfigFile is the greatest size of a configuration file, in bytes.
const maxConfigFile = 1 << 20

// configFile is the content of the file that --config names: flat YAML with one key for
// each option of serve, under the option's name.
type configFile struct {
	name     string
	values   map[string]fileValue
	problems []string // one sentence each

	known    map[string]*cli.Option // all options by name
	mistakes []mistake              // become problems, in the order of their lines
}

// fileValue is the value of one key as text.
type fileValue struct {
	text  string
	line  int
	items []fileValue // if the value is a list
}

// lineOf returns the line of the item of v with this text, or the line of v if v has no
// such item.
func (v fileValue) lineOf(item string) int {
	for _, i := range v.items {
		if i.text == item {
			return i.line
		}
	}
	return v.line
}

// mistake is an error in one line of the file.
type mistake struct {
	line int
	text string
}

func newConfigFile(name string) *configFile {
	f := &configFile{name: name, values: make(map[string]fileValue), known: make(map[string]*cli.Option)}
	for _, o := range config.Options() {
		f.known[o.Name] = o
	}
	return f
}

// readConfigFile reads the file and records all errors in its form. It does not validate
// the values. The file may be a pipe if pipes is true.
func readConfigFile(name string, pipes bool) *configFile {
	f := newConfigFile(name)
	text, err := config.ReadFile(name, maxConfigFile, pipes)
	if err != nil {
		f.problems = append(f.problems, fmt.Sprintf("--config %q: must be a file that can be read (%v); its format is in docs/operate.md", name, err))
		return f
	}
	f.parse(text)
	return f
}

// again returns a function that reads the configuration again, from the same arguments
// and variables and from the current content of the file. The file must be a regular
// file. If it has had options before, it must have some now: an empty file means that a
// program is still writing it, or has truncated it.
func (c *command) again(args, environ []string) func() (config.Config, config.Origins, error) {
	had := c.env.file != nil && len(c.env.file.values) > 0
	return func() (config.Config, config.Origins, error) {
		n := newCommand(environ, io.Discard)
		n.env.again = true
		_, problems := n.read(args)
		if f := n.env.file; f != nil && len(f.problems) == 0 && len(f.values) == 0 && had {
			problems = append(problems, fmt.Sprintf("--config %q: has no options now, and had some before; put them back; to go back to the default of every option, restart", f.name))
		}
		if len(problems) > 0 {
			return config.Config{}, nil, errors.New(strings.Join(problems, "\n"))
		}
		had = had || n.env.file != nil && len(n.env.file.values) > 0
		return n.Serve.Config, n.env.origins, nil
	}
}

func (f *configFile) complain(line int, format string, args ...any) {
	f.mistakes = append(f.mistakes, mistake{line, fmt.Sprintf(format, args...)})
}

// directive matches the line %YAML at the beginning of a file, after comments. The parser
// refuses version 1.2. For the content that a configuration may have, the rules of 1.1
// and 1.2 are the same.
var directive = regexp.MustCompile(`\A(?:\x{FEFF})?(?:[ \t]*(?:#[^\n]*)?\n)*%YAML[ \t]+1\.[0-9]+[ \t]*(?:#[^\n]*)?(?:\n|\z)`)

// parse reads the keys of one document. Values stay text, and the option's own parser
// reads them: no is the word "no", and 1_000 is not a number.
func (f *configFile) parse(text []byte) {
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	text = directive.ReplaceAllFunc(text, func(line []byte) []byte { return bytes.Repeat([]byte("\n"), bytes.Count(line, []byte("\n"))) })
	if root, ok := document(text); !ok {
		// Each entry is parsed alone, so that all mistakes are reported, each with its own
		// line. A YAML parser stops at the first mistake, and often names another line.
		for _, e := range f.entries(text) {
			f.entry(e)
		}
	} else if root != nil {
		f.takeAll(root, 0)
	}
	slices.SortStableFunc(f.mistakes, func(a, b mistake) int { return a.line - b.line })
	for _, m := range f.mistakes {
		f.problems = append(f.problems, fmt.Sprintf("%s:%d: %s", f.name, m.line, m.text))
	}
}

// document returns the mapping in text, or nil if text is empty. ok is false if text is
// not a mapping or cannot be parsed.
func document(text []byte) (root *yaml.Node, ok bool) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	if err := d.Decode(&doc); err != nil {
		return nil, errors.Is(err, io.EOF)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, false
	}
	root = doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, true
	}
	return root, root.Kind == yaml.MappingNode
}

// takeAll takes the pairs of a mapping. below is the number of lines of the file before
// the mapping's first line.
func (f *configFile) takeAll(m *yaml.Node, below int) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		f.take(m.Content[i], m.Content[i+1], below)
	}
}

// take records one pair of key and value, or its error.
func (f *configFile) take(key, value *yaml.Node, below int) {
	name, line := key.Value, key.Line+below
	first, seen := f.values[name]
	text, ok := scalar(value)
	var items []fileValue
	bad := value // the invalid node if !ok
	if value.Kind == yaml.SequenceNode {
		items, bad = sequence(value, below)
		var texts []string
		for _, i := range items {
			texts = append(texts, i.text)
		}
		text, ok = strings.Join(texts, ","), bad == nil
	}
	switch {
	case f.known[name] == nil && value.Kind == yaml.MappingNode && len(value.Content) > 0:
		f.complain(line, "%.80q is no option, and options stand under no heading; begin each at the left edge", name)
		f.takeAll(value, below)
	case f.known[name] == nil:
		fix := "pyrycode-relay help --all lists them"
		if near := cli.Nearest(name, maps.Keys(f.known), 0); near != "" {
			fix = fmt.Sprintf("did you mean %s?", near)
			if f.known[near].Secret {
				fix = fmt.Sprintf("did you mean the environment variable %s?", config.EnvName(near))
			}
		}
		f.complain(line, "%.80q is no option; %s", name, fix)
	case seen:
		f.complain(line, "%s stands in line %d already; take one of them out", name, first.line)
	case value.Tag == "!!null" && value.Value == "":
		f.complain(line, `%s has no value; give one ("" for none), or take the line out`, name)
	case !ok:
		f.complain(bad.Line+below, "%s must have one value, or a list of them; for example %s: %s", name, name, exampleOf(f.known[name]))
	default:
		f.values[name] = fileValue{text, line, items}
	}
}

// scalar returns the text of n. ok is false if n is not a scalar.
func scalar(n *yaml.Node) (string, bool) {
	return n.Value, n.Kind == yaml.ScalarNode && n.Anchor == ""
}

// sequence returns the items of a list, and the first node that is not a valid item, or
// nil. An item with a comma is not valid, because on the command line it is two items.
func sequence(n *yaml.Node, below int) (items []fileValue, bad *yaml.Node) {
	for _, item := range n.Content {
		text, ok := scalar(item)
		if !ok || strings.Contains(text, ",") {
			return nil, item
		}
		items = append(items, fileValue{text: text, line: item.Line + below})
	}
	return items, nil
}

// exampleOf returns a valid value of an option.
func exampleOf(o *cli.Option) string {
	if o.Default == "" || o.IsBool() {
		return `"…"`
	}
	return o.Default
}
