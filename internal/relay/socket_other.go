//go:build !linux

package relay

import "net"

func newTCPSocket(tcp *net.TCPConn) Socket { return newStreamSocket(tcp) }
