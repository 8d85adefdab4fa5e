package load

import (
	"encoding/binary"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ticker ticks at intervals of microseconds. The timers of Go have a resolution of one
// millisecond on Linux, because epoll_wait has.
type ticker struct{ file *os.File }

func newTicker(every time.Duration) (*ticker, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	t := &ticker{os.NewFile(uintptr(fd), "timer")}
	at := unix.NsecToTimespec(int64(every))
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: at, Value: at}, nil); err != nil {
		t.close()
		return nil, os.NewSyscallError("timerfd_settime", err)
	}
	return t, nil
}

// wait waits for a tick and returns the number of ticks since the last call.
func (t *ticker) wait() (int, error) {
	var n [8]byte
	if _, err := t.file.Read(n[:]); err != nil {
		return 0, err
	}
	return int(binary.NativeEndian.Uint64(n[:])), nil
}

func (t *ticker) close() { t.file.Close() }
