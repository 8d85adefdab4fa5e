// Package cli is the command line of this module's programs: commands with cobra, and
// options that are declared as fields of structs.
//
//	options.go   [Option], the tags of its field, and the values that it can have
//	command.go   [Command], [Group], and the sentence for each mistake on a command line
//	complete.go  the words that a shell offers as values and arguments
//
// It imports no other package of this module. Begin with [Option].
package cli
