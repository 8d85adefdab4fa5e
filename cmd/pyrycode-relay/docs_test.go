package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/golden"
)

// otherTools are the flags on the pages that belong to other programs.
var otherTools = map[string]bool{
	"--now": true, "--rm": true, "--user": true, "--help": true, "--unix-socket": true,
	"--age": true, "--binaries-only": true, "--pairs": true, "--rounds": true, "--ways": true, // relayload restart
}

// Each command, option and variable in the README and on the operators' page must exist,
// and the operators' page must have each command.
func TestTheCommandsOnThePagesExist(t *testing.T) {
	commands, flags, vars := model(t)
	flags["--version"] = true
	command := regexp.MustCompile(`(?m)pyrycode-relay ([a-z]+)`)
	flag := regexp.MustCompile("(?m)(?:^|[ `(\"])(--[a-z][a-z.-]*[a-z])")
	variable := regexp.MustCompile(config.EnvPrefix + `[A-Z_]*[A-Z]`)
	for _, name := range []string{"README.md", "docs/operate.md", "docs/connections.md"} {
		text, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		page := string(text)
		found := 0
		for _, m := range command.FindAllStringSubmatch(page, -1) {
			found++
			if !commands[m[1]] {
				t.Errorf("%s has %q; there is no such command", name, m[0])
			}
		}
		for _, m := range flag.FindAllStringSubmatch(page, -1) {
			found++
			if !flags[m[1]] && !otherTools[m[1]] {
				t.Errorf("%s has %s; there is no such option", name, m[1])
			}
		}
		for _, v := range variable.FindAllString(page, -1) {
			if !vars[v] && v != "PYRYCODE_RELAY_GRACES" { // an intended typo
				t.Errorf("%s has %s; no option has this variable", name, v)
			}
		}
		if found < 10 {
			t.Errorf("only %d commands and options seen in %s", found, name)
		}
		if name == "docs/operate.md" {
			for c := range commands {
				if !strings.HasPrefix(c, "--") && !strings.Contains(page, "| `pyrycode-relay "+c+"` |") {
					t.Errorf("%s has no line for the command %s", name, c)
				}
			}
		}
	}
}

// The program can parse each command line that a page prints.
func TestTheCommandLinesOnThePagesParse(t *testing.T) {
	parse := func(args []string) error {
		_, err := cli.Parse(newCommand(nil, io.Discard).root, withCommand(args))
		return err
	}
	golden.Commands(t, "pyrycode-relay", 30, parse)
	golden.Commands(t, "pyrycode-relay-cluster", 3, parse)
}
