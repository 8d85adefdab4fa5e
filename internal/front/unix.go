package front

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
)

// socketMode lets the user and the group of the relay connect to its Unix socket. The
// permissions of the socket stand for a password.
const socketMode = 0o660

// staleTime is how long an old socket may take to show whether a process listens there.
const staleTime = time.Second

// errSocketInUse says that another process listens at a Unix socket.
var errSocketInUse = errors.New("another process listens there")

// listenUnix opens a Unix socket at path. It replaces a socket that a process has left
// behind that did not end properly.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		d := net.Dialer{Timeout: staleTime}
		c, err := d.DialContext(ctx, "unix", path)
		if err == nil {
			c.Close()
			return nil, errSocketInUse
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			err = os.Remove(path)
		}
		if err != nil {
			return nil, err
		}
	}
	ln, err := bindUnix(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil { // the umask may have removed bits
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// bindUnix creates a socket at path with socketMode, or with fewer bits if the umask says
// so. Linux gives the file the mode of the descriptor, so that no client can connect
// between bind and a later chmod. Other systems do not, and have only the umask until then.
func bindUnix(ctx context.Context, path string) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), socketMode) }); cerr != nil {
			return cerr
		}
		if runtime.GOOS != "linux" {
			return nil
		}
		return err
	}}
	return lc.Listen(ctx, "unix", path)
}
