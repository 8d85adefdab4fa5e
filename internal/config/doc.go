// Package config is the configuration of the process: its options, how their texts are
// read, what is invalid or unsafe, and the files that options name.
//
//	options.go      the table of options, made of the tags of [Config]
//	validate.go     [Config.Check]: all that is wrong, without a change to anything
//	exposure.go     who can reach what, and what is too unsafe to run
//	findings.go     [Config.Inspect]: what the command check says in addition
//	certificate.go  the certificate of the public listener, and --acme-dir
//	web.go          --web.config.file
//	machine.go      what the machine allows: open files, memory, privileges
//	readfile.go     reading files that may hang
//
// Of this module it may import internal/relay for defaults, internal/push and
// internal/cluster for what they know of their own options.
//
// Begin with [Config].
package config
