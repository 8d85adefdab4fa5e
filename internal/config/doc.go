// Package config is the configuration of the process: the options, how their texts
// are read, what makes them invalid, and the files that they name.
//
// Of this module it imports nothing. Begin with [ReadFile].
package config
