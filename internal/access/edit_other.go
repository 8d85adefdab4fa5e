//go:build !unix

package access

import (
	"io/fs"
	"os"
)

// lockDir does nothing on this system.
func lockDir(string) (unlock func(), err error) { return func() {}, nil }

// keepOwner does nothing on this system.
func keepOwner(*os.File, fs.FileInfo) error { return nil }
