package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// maxConfigFile is how long a configuration file may be, in bytes.
const maxConfigFile = 1 << 20

// configFile is what --config names: flat YAML, one key per option of serve,
// under the option's name.
type configFile struct {
	name     string
	values   map[string]fileValue
	problems []string // a sentence each

	known    map[string]bool // the names of all options
	mistakes []mistake       // become problems in the order of their lines
}

// fileValue is the value of one key, as it stands in the file.
type fileValue struct {
	text  string
	line  int
	items []fileValue // of a list
}

// lineOf returns the line of the item of v whose text is item, or else the line
// of v.
func (v fileValue) lineOf(item string) int {
	for _, i := range v.items {
		if i.text == item {
			return i.line
		}
	}
	return v.line
}

// mistake is something wrong in one line of the file.
type mistake struct {
	line int
	text string
}

func newConfigFile(name string) *configFile {
	f := &configFile{name: name, values: make(map[string]fileValue), known: make(map[string]bool)}
	for _, o := range config.Options() {
		f.known[o.Name] = true
	}
	return f
}

// readConfigFile reads the file and notes all that is wrong with it, apart
// from what is wrong with the values. With pipes true the file may be a pipe.
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

// again returns a function that reads the configuration again from where c
// has it: from the same arguments and variables, and from the file as it is
// then. The file must be a regular one. Once it has had options it must have
// some: an empty file is one that is being written, or has been cut.
func (c *command) again(args, environ []string, b daemon.Build) func() (config.Config, config.Origins, error) {
	had := c.env.file != nil && len(c.env.file.values) > 0
	return func() (config.Config, config.Origins, error) {
		n := newCommand(environ)
		n.env.again = true
		_, problems := n.read(args, b, io.Discard)
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

// directive is the line %YAML at the beginning of a file, behind comments. The
// parser refuses it with 1.2, whose rules and those of 1.1 are the same for
// what a configuration may have.
var directive = regexp.MustCompile(`\A(?:\x{FEFF})?(?:[ \t]*(?:#[^\n]*)?\n)*%YAML[ \t]+1\.[0-9]+[ \t]*(?:#[^\n]*)?(?:\n|\z)`)

// parse takes the keys of one document. Values stay the text they are in the
// file: the option's own rules read them, so no is a word and 1_000 no number.
func (f *configFile) parse(text []byte) {
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	text = directive.ReplaceAllFunc(text, func(line []byte) []byte { return bytes.Repeat([]byte("\n"), bytes.Count(line, []byte("\n"))) })
	if root, ok := document(text); !ok {
		f.piecewise(text)
	} else if root != nil {
		f.takeAll(root, 0)
	}
	slices.SortStableFunc(f.mistakes, func(a, b mistake) int { return a.line - b.line })
	for _, m := range f.mistakes {
		f.problems = append(f.problems, fmt.Sprintf("%s:%d: %s", f.name, m.line, m.text))
	}
}

// document returns the mapping that text is; none if it is empty. ok is false
// if text is anything else, or cannot be parsed.
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

// takeAll takes the pairs of a mapping whose first line is that many lines
// below the file's.
func (f *configFile) takeAll(m *yaml.Node, below int) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		f.take(m.Content[i], m.Content[i+1], below)
	}
}

// take takes one pair.
func (f *configFile) take(key, value *yaml.Node, below int) {
	name, line := key.Value, key.Line+below
	first, seen := f.values[name]
	text, ok := scalar(value)
	var items []fileValue
	bad := value // the node that is wrong if !ok
	if value.Kind == yaml.SequenceNode {
		items, bad = sequence(value, below)
		var texts []string
		for _, i := range items {
			texts = append(texts, i.text)
		}
		text, ok = strings.Join(texts, ","), bad == nil
	}
	switch {
	case !f.known[name] && value.Kind == yaml.MappingNode && len(value.Content) > 0:
		f.complain(line, "%.80q is no option, and options stand under no heading; begin each at the left edge", name)
		f.takeAll(value, below)
	case !f.known[name]:
		fix := "pyrycode-relay serve --help lists them"
		if near := nearest(name, f.known, 0); near != "" {
			fix = fmt.Sprintf("did you mean %s?", near)
			if secretNames()[near] {
				fix = fmt.Sprintf("did you mean the environment variable %s?", config.EnvName(near))
			}
		}
		f.complain(line, "%.80q is no option; %s", name, fix)
	case seen:
		f.complain(line, "%s stands in line %d already; take one of them out", name, first.line)
	case value.Tag == "!!null" && value.Value == "":
		f.complain(line, `%s has no value; give one ("" for none), or take the line out`, name)
	case !ok:
		f.complain(bad.Line+below, "%s must have one value, or a list of them; for example %s: %s", name, name, exampleOf(name))
	default:
		f.values[name] = fileValue{text, line, items}
	}
}

// scalar is the text of a value that is one.
func scalar(n *yaml.Node) (string, bool) {
	return n.Value, n.Kind == yaml.ScalarNode && n.Anchor == ""
}

// sequence returns the items of a list, and the first node that cannot be one;
// nil if all can. An item with a comma cannot: on the command line it is two.
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

// exampleOf is a value that an option may have.
func exampleOf(name string) string {
	for _, o := range config.Options() {
		if o.Name == name && o.Default != "" && !slices.Contains([]string{"true", "false"}, o.Default) {
			return o.Default
		}
	}
	return `"…"`
}
