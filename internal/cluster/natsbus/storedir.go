package natsbus

import (
	"os"
	"path/filepath"
	"syscall"
)

// What a server has on disk is of no use after its process. Who is killed
// cannot remove it, so the next one does: a directory whose lock can be had
// has no owner any more.
const (
	storePrefix = "pyrycode-relay-nats-"
	lockName    = "lock"
)

// storeDir makes a directory that is this process' while lock is open.
func storeDir() (dir string, lock *os.File, err error) {
	if dir, err = os.MkdirTemp("", storePrefix); err != nil {
		return "", nil, err
	}
	// Under its name only once it is locked: nobody finds it without an owner.
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

// sweep removes what servers have left behind that were killed.
func sweep() {
	all, err := filepath.Glob(filepath.Join(os.TempDir(), storePrefix+"*", lockName))
	if err != nil {
		return // of the pattern; there is none
	}
	for _, name := range all {
		f, err := os.Open(name)
		if err != nil {
			continue // another user's
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(filepath.Dir(name)) // the next one tries again
		}
		f.Close()
	}
}
