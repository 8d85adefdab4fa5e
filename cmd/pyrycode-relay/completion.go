package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// completion is the completion command: it prints a script for a shell.
type completion struct {
	Shell string `arg:"" name:"shell" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// run writes the script. The script contains all commands, flags and values, so the shell
// does not run the program at each key.
func (s *completion) run(_ context.Context, c invocation) error {
	switch s.Shell {
	case "bash":
		completeBash(c.app, c.out)
	case "zsh":
		completeZsh(c.app, c.out)
	case "fish":
		completeFish(c.app, c.out)
	}
	return nil
}

// flagsOf returns the flags of one command that are in its help.
func flagsOf(cmd *kong.Node) []*kong.Flag {
	var all []*kong.Flag
	for _, f := range cmd.Flags {
		if !f.Hidden && !isSecret(f) {
			all = append(all, f)
		}
	}
	return all
}

// isFile reports whether a flag's value is the name of a file.
func isFile(f *kong.Flag) bool { return strings.HasPrefix(f.Tag.Get("unit"), "file") }

// isDirectory reports whether a flag's value is the name of a directory.
func isDirectory(f *kong.Flag) bool { return f.Tag.Get("unit") == "directory" }

// valuesOf returns the valid values of a flag, or nil if they are not known.
func valuesOf(f *kong.Flag) []string {
	if f.IsBool() {
		return []string{"true", "false"}
	}
	if values := f.Tag.Get("values"); values != "" {
		return strings.Split(values, ",")
	}
	return nil
}

// argumentsOf returns the values of the first argument of a command.
func argumentsOf(app *kong.Application, cmd *kong.Node) (words []string) {
	if len(cmd.Positional) > 0 && cmd.Positional[0].Enum != "" {
		words = append(words, strings.Split(cmd.Positional[0].Enum, ",")...)
	}
	switch cmd.Name {
	case "help":
		words = append(words, topics(app)...)
	case "access":
		words = append(words, "add", "list", "remove", "token")
	}
	return words
}

// shellQuote returns text as one word of a shell.
func shellQuote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// patterns returns keys, each behind prefix, as the patterns of one branch of case.
func patterns(keys []string, prefix string) string {
	quoted := make([]string, len(keys))
	for i, k := range keys {
		quoted[i] = shellQuote(prefix + k)
	}
	return strings.Join(quoted, "|")
}

// completeBash writes a function that first finds the command before the cursor, and then
// looks up the words that may follow it, or follow its flag.
func completeBash(app *kong.Application, out io.Writer) {
	fmt.Fprintf(out, `# bash completion for %s: source <(%[1]s completion bash)
_pyrycode_relay() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd= words= i given=
  if [ "$cur" = = ]; then cur= given=1; elif [ "$prev" = = ]; then prev=${COMP_WORDS[COMP_CWORD-2]} given=1; fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$cmd ${COMP_WORDS[i]}" in
      `, app.Name)
	var commands []string
	for _, cmd := range app.Children {
		commands = append(commands, cmd.Name)
	}
	fmt.Fprintf(out, "%s) cmd=${COMP_WORDS[i]} ;;\n    esac\n  done\n  case $cmd in\n", patterns(commands, " "))
	branch := func(key string, words []string, cmd *kong.Node) {
		for _, f := range flagsOf(cmd) {
			words = append(words, "--"+f.Name)
		}
		fmt.Fprintf(out, "    %s) words=%s ;;\n", shellQuote(key), shellQuote(strings.Join(words, " ")))
	}
	branch("", append(commands, "--version"), commandOf(app, "serve"))
	for _, cmd := range app.Children {
		branch(cmd.Name, argumentsOf(app, cmd), cmd)
	}
	fmt.Fprint(out, "  esac\n  case \"${cmd:-serve} $prev$given\" in\n")
	for _, cmd := range app.Children {
		bashValues(cmd, out)
	}
	fmt.Fprintf(out, `  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -F _pyrycode_relay %s
`, app.Name)
}

// bashValues writes a branch for each kind of value of the flags of cmd.
func bashValues(cmd *kong.Node, out io.Writer) {
	var order []string
	keys := make(map[string][]string) // by the action of the branch
	for _, f := range flagsOf(cmd) {
		action := "return"
		switch values := valuesOf(f); {
		case isFile(f):
			action = `compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return`
		case isDirectory(f):
			action = `compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur")); return`
		case values != nil:
			action = "words=" + shellQuote(strings.Join(values, " "))
		}
		if keys[action] == nil {
			order = append(order, action)
		}
		if !f.IsBool() {
			keys[action] = append(keys[action], cmd.Name+" --"+f.Name)
		}
		keys[action] = append(keys[action], cmd.Name+" --"+f.Name+"1")
	}
	for _, action := range order {
		fmt.Fprintf(out, "    %s) %s ;;\n", patterns(keys[action], ""), action)
	}
}

// completeZsh writes a function with one call of _arguments for each command.
func completeZsh(app *kong.Application, out io.Writer) {
	fmt.Fprintf(out, "#compdef %s\n# zsh completion for %[1]s: source <(%[1]s completion zsh)\n_pyrycode_relay() {\n", app.Name)
	fmt.Fprint(out, "  local -a commands=(\n")
	for _, cmd := range app.Children {
		fmt.Fprintf(out, "    %s\n", shellQuote(cmd.Name+":"+zshPlain(cmd.Help)))
	}
	fmt.Fprint(out, "  )\n  if (( CURRENT == 2 )); then _describe command commands; return; fi\n  case $words[2] in\n")
	for _, cmd := range app.Children {
		fmt.Fprintf(out, "    %s)\n", cmd.Name)
		zshArguments(app, cmd, out)
		fmt.Fprint(out, "      ;;\n")
	}
	fmt.Fprintf(out, "  esac\n}\ncompdef _pyrycode_relay %s\n", app.Name)
}

// zshPlain replaces the characters that have a meaning for _arguments.
var zshPlain = strings.NewReplacer("[", "(", "]", ")", ":", " -").Replace

// zshArguments writes the completion of the arguments of cmd.
func zshArguments(app *kong.Application, cmd *kong.Node, out io.Writer) {
	fmt.Fprint(out, "      _arguments")
	if words := argumentsOf(app, cmd); words != nil {
		fmt.Fprintf(out, " %s", shellQuote(fmt.Sprintf("2:%s:(%s)", cmd.Positional[0].Name, strings.Join(words, " "))))
	}
	for _, f := range flagsOf(cmd) {
		spec := "--" + f.Name + "[" + zshPlain(f.OrigHelp) + "]"
		switch values := valuesOf(f); {
		case isFile(f):
			spec += ":" + f.Name + ":_files"
		case isDirectory(f):
			spec += ":" + f.Name + ":_files -/"
		case f.IsBool():
		case values != nil:
			spec += ":" + f.Name + ":(" + strings.Join(values, " ") + ")"
		default:
			spec += ":" + zshPlain(f.Tag.Get("unit")) + ":"
		}
		fmt.Fprintf(out, " \\\n        %s", shellQuote(spec))
	}
	fmt.Fprintln(out)
}

// completeFish writes one line for each command and for each flag.
func completeFish(app *kong.Application, out io.Writer) {
	fmt.Fprintf(out, "# fish completion for %s: %[1]s completion fish | source\ncomplete -c %[1]s -f\n", app.Name)
	for _, cmd := range app.Children {
		fmt.Fprintf(out, "complete -c %s -n __fish_use_subcommand -a %s -d %s\n", app.Name, cmd.Name, shellQuote(cmd.Help))
		on := shellQuote("__fish_seen_subcommand_from " + cmd.Name)
		if words := argumentsOf(app, cmd); words != nil {
			fmt.Fprintf(out, "complete -c %s -n %s -a %s\n", app.Name, on, shellQuote(strings.Join(words, " ")))
		}
		for _, f := range flagsOf(cmd) {
			value := " -x" // a value that the shell does not know
			switch values := valuesOf(f); {
			case isFile(f):
				value = " -r -F"
			case isDirectory(f):
				value = " -x -a '(__fish_complete_directories)'"
			case f.IsBool():
				value = ""
			case values != nil:
				value = " -x -a " + shellQuote(strings.Join(values, " "))
			}
			fmt.Fprintf(out, "complete -c %s -n %s -l %s%s -d %s\n", app.Name, on, f.Name, value, shellQuote(f.OrigHelp))
		}
	}
}
