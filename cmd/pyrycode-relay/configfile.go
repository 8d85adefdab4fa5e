package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

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
}

// fileValue is the value of one key, as it stands in the file.
type fileValue struct {
	text string
	line int
}

// readConfigFile reads the file and notes all that is wrong with it, apart
// from what is wrong with the values.
func readConfigFile(name string) *configFile {
	f := &configFile{name: name, values: make(map[string]fileValue)}
	text, err := readBounded(name)
	if err != nil {
		if p, ok := errors.AsType[*fs.PathError](err); ok {
			err = p.Err
		}
		f.problems = append(f.problems, fmt.Sprintf("--config %q: must be a file that can be read (%v); its format is in docs/operate.md", name, err))
		return f
	}
	f.parse(text)
	return f
}

func readBounded(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxConfigFile+1))
	if err == nil && len(text) > maxConfigFile {
		err = fmt.Errorf("it is longer than %d bytes", maxConfigFile)
	}
	return text, err
}

func (f *configFile) complain(line int, format string, args ...any) {
	f.problems = append(f.problems, fmt.Sprintf("%s:%d: ", f.name, line)+fmt.Sprintf(format, args...))
}

// parse takes the keys of one document. Values stay the text they are in the
// file: the option's own rules read them, so no is a word and 1_000 no number.
func (f *configFile) parse(text []byte) {
	d := yaml.NewDecoder(strings.NewReader(string(text)))
	var doc, more yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return // empty, or comments only
	case err != nil:
		f.problems = append(f.problems, fmt.Sprintf("%s: %s; a line is like grace: 30s, and a value that begins with a special letter stands in quotes",
			f.name, strings.TrimPrefix(err.Error(), "yaml: ")))
		return
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		if root.Tag != "!!null" {
			f.complain(root.Line, "must be lines of option: value; for example grace: 30s")
		}
		return
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		f.complain(more.Line, "must be one document; take out the line --- and what follows")
	}
	known := make(map[string]bool)
	for _, o := range daemon.Options() {
		known[o.Name] = true
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		f.take(root.Content[i], root.Content[i+1], known)
	}
}

// take takes one line.
func (f *configFile) take(key, value *yaml.Node, known map[string]bool) {
	name := key.Value
	first, seen := f.values[name]
	text, ok := scalar(value)
	if value.Kind == yaml.SequenceNode {
		text, ok = sequence(value)
	}
	switch {
	case !known[name]:
		fix := "pyrycode-relay serve --help lists them"
		if near := nearest(name, known, 0); near != "" {
			fix = fmt.Sprintf("did you mean %s?", near)
		}
		f.complain(key.Line, "%.80q is no option; %s", name, fix)
	case seen:
		f.complain(key.Line, "%s stands in line %d already; take one of them out", name, first.line)
	case value.Tag == "!!null" && value.Value == "":
		f.complain(key.Line, `%s has no value; give one ("" for none), or take the line out`, name)
	case !ok:
		f.complain(value.Line, "%s must have one value, or a list of them; for example %s: %s", name, name, exampleOf(name))
	default:
		f.values[name] = fileValue{text, key.Line}
	}
}

// scalar is the text of a value that is one.
func scalar(n *yaml.Node) (string, bool) {
	return n.Value, n.Kind == yaml.ScalarNode && n.Anchor == ""
}

// sequence is a list as it is on the command line: with commas.
func sequence(n *yaml.Node) (string, bool) {
	var all []string
	for _, item := range n.Content {
		text, ok := scalar(item)
		if !ok || strings.Contains(text, ",") {
			return "", false
		}
		all = append(all, text)
	}
	return strings.Join(all, ","), true
}

// exampleOf is a value that an option may have.
func exampleOf(name string) string {
	for _, o := range daemon.Options() {
		if o.Name == name && o.Default != "" && !slices.Contains([]string{"true", "false"}, o.Default) {
			return o.Default
		}
	}
	return `"…"`
}
