package front

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// The test changes the umask of the process, so it must not run in parallel with others.
func TestAUnixSocketIsNeverOpenToOthers(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux takes the mode of the socket from its descriptor")
	}
	for _, tt := range []struct {
		umask          int
		created, after os.FileMode
	}{
		{0, 0o660, 0o660},
		{0o022, 0o640, 0o660},
		{0o077, 0o600, 0o660},
	} {
		old := syscall.Umask(tt.umask)
		defer syscall.Umask(old)
		path := filepath.Join(t.TempDir(), "s")
		mode := func() os.FileMode {
			t.Helper()
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			return info.Mode().Perm()
		}
		ln, err := bindUnix(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if got := mode(); got != tt.created {
			t.Errorf("umask %#o: created with %#o; want %#o", tt.umask, got, tt.created)
		}
		ln.Close()
		if ln, err = listenUnix(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		if got := mode(); got != tt.after {
			t.Errorf("umask %#o: the listener has %#o; want %#o", tt.umask, got, tt.after)
		}
		ln.Close()
		syscall.Umask(old)
	}
}
