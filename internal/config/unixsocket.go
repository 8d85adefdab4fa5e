package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// unixPrefix begins the address of a Unix socket.
const unixPrefix = "unix:"

// maxSocketPath is the length of the longest path of a Unix socket that Linux takes.
const maxSocketPath = 107

// UnixPath returns the path in an address of the form unix:PATH. It reports false for
// all other addresses.
func UnixPath(address string) (path string, ok bool) { return strings.CutPrefix(address, unixPrefix) }

// CheckUnixPath returns the rule that the path of a Unix socket breaks, or "".
func CheckUnixPath(path string) (rule string) {
	if !filepath.IsAbs(path) || len(path) > maxSocketPath || strings.HasSuffix(path, "/") || strings.ContainsRune(path, 0) {
		return fmt.Sprintf("must be unix: and an absolute path of at most %d bytes", maxSocketPath)
	}
	return ""
}

// unixSocket checks the address unix:path. The relay must be able to create the socket.
func (v *validator) unixSocket(option, path string) {
	if rule := CheckUnixPath(path); rule != "" {
		v.add(option, unixPrefix+path, rule, "for example unix:/run/pyrycode-relay/private.sock")
		return
	}
	dir := filepath.Dir(path)
	_, err := inTime(dir, func() (struct{}, error) {
		info, err := os.Stat(dir)
		if err == nil && !info.IsDir() {
			err = errors.New("not a directory")
		}
		if err == nil {
			err = mayAccess(dir, true)
		}
		if info, serr := os.Lstat(path); err == nil && serr == nil && info.Mode().Type() != os.ModeSocket {
			err = errors.New("the file is there, and it is no socket")
		}
		return struct{}{}, err
	})
	if err != nil {
		v.add(option, unixPrefix+path, fmt.Sprintf("must be in a directory in which this user can create it (%v)", pathReason(err)),
			"create the directory "+dir+" for this user (RuntimeDirectory= in systemd), and remove a file that is no socket")
	}
}
