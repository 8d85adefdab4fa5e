//go:build !linux || race

package main

import "net"

// quick returns conn. The race detector does not see raw system calls.
func quick(conn net.Conn) net.Conn { return conn }
