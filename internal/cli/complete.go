package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// complete declares the words that a shell offers as values of the options of all commands
// below root. cobra keeps them for the life of the process.
func complete(root *cobra.Command) {
	for _, c := range Leaves(root) {
		for _, o := range OptionsOf(c) {
			_ = c.RegisterFlagCompletionFunc(o.Name, o.words()) // the flag exists, and has no other
		}
	}
}

// words returns the words that a shell offers as values of o.
func (o *Option) words() cobra.CompletionFunc {
	switch {
	case o.IsBool():
		return cobra.FixedCompletions([]cobra.Completion{"true", "false"}, cobra.ShellCompDirectiveNoFileComp)
	case o.Values != nil:
		return cobra.FixedCompletions(o.Values, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveKeepOrder)
	case strings.HasPrefix(o.Unit, "file"):
		return cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	case o.Unit == "directory":
		return cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs)
	}
	return cobra.NoFileCompletions
}

// completion changes the command completion, which cobra has added to root.
func completion(root *cobra.Command, stdout io.Writer) {
	c, _, _ := root.Find([]string{"completion"})
	c.Short, c.Long, c.RunE, c.Args, c.DisableFlagsInUseLine = "Print a script that completes commands and options in a shell.", "", noCommand, cobra.ArbitraryArgs, true
	for _, shell := range c.Commands() {
		shell.Short, shell.DisableFlagsInUseLine = "Print the script of "+shell.Name()+".", true
		if shell.Name() == "bash" {
			_, shell.Long, _ = strings.Cut(shell.Long, "package manager.\n\n") // plainBash takes the place of the package
			script := shell.RunE
			shell.RunE = func(cmd *cobra.Command, args []string) error {
				if err := script(cmd, args); err != nil {
					return err
				}
				_, err := fmt.Fprintf(stdout, plainBash, root.Name())
				return err
			}
		}
	}
}

// plainBash is what cobra's script takes from the package bash-completion, for a bash
// without it.
const plainBash = `
if ! declare -F _get_comp_words_by_ref >/dev/null; then
__%[1]s_init_completion()
{
    COMPREPLY=()
    read -a words <<<"${COMP_LINE:0:COMP_POINT}"
    if [[ ${COMP_LINE:COMP_POINT-1:1} == [[:blank:]] ]]; then words+=(""); fi
    cword=$((${#words[@]} - 1)) cur=${words[cword]} prev=${words[cword-1]}
}
_filedir()
{
    compopt -o filenames 2>/dev/null
    local IFS=$'\n'
    COMPREPLY=($(compgen "${1:--f}" -- "$cur"))
}
fi
`
