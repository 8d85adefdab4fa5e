// Package install installs the relay as a service of systemd, and removes it.
//
//	plan.go     [Plan]: the steps, each of which knows whether it is done already
//	systemd.go  what the machine must have, and the commands of systemd
//	systemd/    the units and the user, as they are written
//
// It may import nothing of this module. Begin with [Install].
package install
