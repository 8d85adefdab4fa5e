// Package config is the configuration of the process: its options, how their texts are
// parsed, which values are invalid or unsafe, and the files that options name.
//
//	options.go      the table of options, from the tags of [Config]
//	validate.go     [Config.Check]: all problems of a configuration; changes nothing
//	exposure.go     which machines can reach each listener, and what is too unsafe to run
//	findings.go     [Config.Inspect]: the additional findings of the command check
//	certificate.go  the certificate of the public listener, and --acme-dir
//	web.go          --web.config.file
//	machine.go      the limits of the machine: open files, memory, privileges
//	readfile.go     reading files that may hang
//
// Of this module it may import internal/cli for the form of options, internal/relay for their defaults, internal/push and
// internal/cluster for the rules of their options, and internal/network.
//
// Begin with [Config].
package config
