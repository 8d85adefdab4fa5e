package natsbus

import (
	"os"
	"path/filepath"
	"syscall"
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

// sweep removes the directories of servers that were killed.
func sweep() {
	all, err := filepath.Glob(filepath.Join(os.TempDir(), storePrefix+"*", lockName))
	if err != nil {
		return // the pattern is invalid, which cannot happen
	}
	for _, name := range all {
		f, err := os.Open(name)
		if err != nil {
			continue // the directory of another user
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(filepath.Dir(name)) // the next sweep tries again
		}
		f.Close()
	}
}
