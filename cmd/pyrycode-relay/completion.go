package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// completion is the completion command: it prints a script for a shell.
type completion struct {
	Shell string `arg:"" name:"shell" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// run writes the script. The script contains all commands and flags, so the shell does
// not run the program at each key.
func (c *completion) run(app *kong.Application, out io.Writer) {
	switch c.Shell {
	case "bash":
		completeBash(app, out)
	case "zsh":
		completeZsh(app, out)
	case "fish":
		completeFish(app, out)
	}
}

// flagsOf returns the flags of one command that are in its help.
func flagsOf(cmd *kong.Node) []*kong.Flag {
	var all []*kong.Flag
	for _, f := range cmd.Flags {
		if !f.Hidden && f.Tag.Get("secret") == "" {
			all = append(all, f)
		}
	}
	return all
}

// isFile reports whether a flag's value is the name of a file or directory.
func isFile(f *kong.Flag) bool {
	unit := f.Tag.Get("unit")
	return strings.HasPrefix(unit, "file") || unit == "directory"
}

func completeBash(app *kong.Application, out io.Writer) {
	fmt.Fprintf(out, "# bash completion for %s: source <(%[1]s completion bash)\n_pyrycode_relay() {\n", app.Name)
	fmt.Fprint(out, "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} cmd=${COMP_WORDS[1]} words= files=\n  case $cmd in\n")
	var commands []string
	for _, cmd := range app.Children {
		commands = append(commands, cmd.Name)
		var flags, files []string
		for _, f := range flagsOf(cmd) {
			flags = append(flags, "--"+f.Name)
			if isFile(f) {
				files = append(files, "--"+f.Name)
			}
		}
		if cmd.Name == "completion" {
			flags = append(flags, "bash", "zsh", "fish")
		}
		fmt.Fprintf(out, "    %s) words='%s' files=' %s ' ;;\n", cmd.Name, strings.Join(flags, " "), strings.Join(files, " "))
	}
	fmt.Fprintf(out, `  esac
  if [ "$COMP_CWORD" = 1 ]; then words='%s --help'; fi
  if [[ $files == *" $prev "* ]]; then
    COMPREPLY=($(compgen -f -- "$cur"))
  else
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
  fi
}
complete -o default -F _pyrycode_relay %s
`, strings.Join(commands, " "), app.Name)
}

// shellQuote returns text as one word of a shell.
func shellQuote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

func completeZsh(app *kong.Application, out io.Writer) {
	// Brackets and colons have a meaning for _arguments.
	plain := strings.NewReplacer("[", "(", "]", ")", ":", " -").Replace
	fmt.Fprintf(out, "#compdef %s\n# zsh completion for %[1]s: source <(%[1]s completion zsh)\n_pyrycode_relay() {\n  local -a commands=(\n", app.Name)
	for _, cmd := range app.Children {
		fmt.Fprintf(out, "    %s\n", shellQuote(cmd.Name+":"+plain(cmd.Help)))
	}
	fmt.Fprint(out, "  )\n  if (( CURRENT == 2 )); then _describe command commands; return; fi\n  case $words[2] in\n")
	for _, cmd := range app.Children {
		fmt.Fprintf(out, "    %s) _arguments", cmd.Name)
		if cmd.Name == "completion" {
			fmt.Fprint(out, " '2:shell:(bash zsh fish)'")
		}
		for _, f := range flagsOf(cmd) {
			spec := "--" + f.Name + "[" + plain(f.OrigHelp) + "]"
			switch {
			case isFile(f):
				spec += ":" + f.Name + ":_files"
			case !f.IsBool():
				spec += ":" + plain(f.Tag.Get("unit")) + ":"
			}
			fmt.Fprint(out, " \\\n      ", shellQuote(spec))
		}
		fmt.Fprint(out, " ;;\n")
	}
	fmt.Fprintf(out, "  esac\n}\ncompdef _pyrycode_relay %s\n", app.Name)
}

func completeFish(app *kong.Application, out io.Writer) {
	fmt.Fprintf(out, "# fish completion for %s: %[1]s completion fish | source\ncomplete -c %[1]s -f\n", app.Name)
	for _, cmd := range app.Children {
		fmt.Fprintf(out, "complete -c %s -n __fish_use_subcommand -a %s -d %s\n", app.Name, cmd.Name, shellQuote(cmd.Help))
		on := shellQuote("__fish_seen_subcommand_from " + cmd.Name)
		if cmd.Name == "completion" {
			fmt.Fprintf(out, "complete -c %s -n %s -a 'bash zsh fish'\n", app.Name, on)
		}
		for _, f := range flagsOf(cmd) {
			how := "-x" // a value that is not a file
			switch {
			case isFile(f):
				how = "-r -F"
			case f.IsBool():
				how = ""
			}
			fmt.Fprintln(out, strings.Join(strings.Fields(fmt.Sprintf("complete -c %s -n %s -l %s %s", app.Name, on, f.Name, how)), " ")+" -d "+shellQuote(f.OrigHelp))
		}
	}
}
