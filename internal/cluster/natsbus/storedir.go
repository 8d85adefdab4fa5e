//go:build !lean

package natsbus

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// A server's directory is useless after the end of its process. A process that is killed
// cannot remove its directory, so the next process does: if the lock of a directory is
// free, its owner has ended.
const (
	storePrefix = "pyrycode-relay-nats-"
	lockName    = "lock"
)

// storeDir creates a directory, which belongs to this process while lock is open.
func storeDir() (dir string, lock *os.File, err error) {
	if dir, err = os.MkdirTemp("", storePrefix); err != nil {
		return "", nil, err
	}
	// The lock file gets its final name once it is locked, so that no process finds it
	// unlocked.
	early := filepath.Join(dir, lockName+".new")
	if lock, err = os.Create(early); err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err == nil {
		err = os.Rename(early, filepath.Join(dir, lockName))
	}
	if err != nil {
		if lock != nil {
			lock.Close()
		}
		os.RemoveAll(dir)
		return "", nil, err
	}
	return dir, lock, nil
}

// sweep removes the directories of servers that were killed. It opens only
// directories that no other user can write, and regular files in them. All users
// can write to the directory for temporary files, and another user's pipe with an
// expected name must not delay the start.
func sweep() {
	all, err := filepath.Glob(filepath.Join(os.TempDir(), storePrefix+"*"))
	if err != nil {
		return // only a bad pattern is an error
	}
	for _, dir := range all {
		lock, err := openLock(dir)
		if err != nil {
			continue // not one of ours, or it has no lock yet
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(dir) // the next start tries again
		}
		lock.Close()
	}
}

// errNotOurs is the error for a file that storeDir cannot have created.
var errNotOurs = errors.New("not a directory or regular file that belongs to this user alone")

// openLock opens the lock of dir. It follows no link in the last two parts of the
// name, and never waits.
func openLock(dir string) (*os.File, error) {
	at, err := openOurs(unix.AT_FDCWD, dir, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(at)
	fd, err := openOurs(at, lockName, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), filepath.Join(dir, lockName)), nil
}

// openOurs opens a regular file or, if flags has O_DIRECTORY, a directory, in the
// directory at. It must belong to the user of this process, no other user may be able
// to write it, and a file must have one name.
func openOurs(at int, name string, flags int) (fd int, err error) {
	// O_NONBLOCK makes the open of a pipe return. Opening a device may have
	// effects, so the type is checked first.
	want := uint32(unix.S_IFREG)
	if flags&unix.O_DIRECTORY != 0 {
		want = unix.S_IFDIR
	}
	ours := func(st *unix.Stat_t) bool {
		return uint32(st.Mode)&unix.S_IFMT == want && int(st.Uid) == os.Geteuid() && st.Mode&0o022 == 0 && (want == unix.S_IFDIR || st.Nlink == 1)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, err
	}
	if !ours(&st) {
		return 0, errNotOurs
	}
	fd, err = unix.Openat(at, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return 0, err
	}
	if err = unix.Fstat(fd, &st); err == nil && !ours(&st) { // it was replaced in between
		err = errNotOurs
	}
	if err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}
