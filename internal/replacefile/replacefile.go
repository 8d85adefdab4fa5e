// Package replacefile replaces the content of a file in one step: a reader sees the old
// content or the new one, also after a power failure.
//
// The package imports nothing of this module.
package replacefile

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// Write writes text to a new file next to name and renames it to name. Before the rename
// it calls prepare, which can set the mode and the owner of the new file; without that the
// mode is 0600. A nil prepare is not called.
func Write(name string, text []byte, prepare func(*os.File) error) error {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil && prepare != nil {
		err = prepare(f)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the error above says more
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil // not every file system syncs directories
	}
	return err
}
