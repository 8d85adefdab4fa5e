package relay

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// unsent is how many bytes the kernel may hold for a peer beside what is on
// its way (tcp(7), TCP_NOTSENT_LOWAT). Without it a send buffer of megabytes
// hides a peer that has stopped reading: frames count as written, and a ping
// as asked, long before they are.
const unsent = 128 << 10

func boundUnsent(raw syscall.RawConn) {
	_ = raw.Control(func(fd uintptr) {
		// A kernel that refuses it works as before.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent)
	})
}
