package daemon

import (
	"context"
	"net"

	"golang.org/x/sys/unix"
)

// withPeer returns ctx with the user-id of the process at the other end of c, if c is a
// Unix socket.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	u := unixConn(c)
	if u == nil {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var peer *unix.Ucred
	var perr error
	err = raw.Control(func(fd uintptr) { peer, perr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err != nil || perr != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, int(peer.Uid))
}
