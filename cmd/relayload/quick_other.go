//go:build !linux || race

package main

import "net"

func quick(conn net.Conn) net.Conn { return conn }
