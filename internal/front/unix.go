package front

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
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
func listenUnix(ctx context.Context, option, path string) (net.Listener, error) {
	ln, err := openUnix(ctx, path)
	if err != nil {
		return nil, &config.ListenError{Option: option, Address: "unix:" + path, Err: err}
	}
	return ln, nil
}

func openUnix(ctx context.Context, path string) (net.Listener, error) {
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
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, socketMode); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}
