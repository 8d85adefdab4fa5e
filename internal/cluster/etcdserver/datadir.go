package etcdserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// dataDir is the directory of a member's files, which this process has locked:
//
//	lock           held while a process uses the directory
//	owner.json     an owner
//	*.pem          the certificates, new at every start
//	member/        etcd's log and database
type dataDir struct {
	path string
	lock *os.File
}

// owner says to which member the data of a directory belong.
type owner struct {
	Address string `json:"address"` // the relay's
	Member  uint64 `json:"member"`  // its id in the directory
	Boot    string `json:"boot"`    // the machine's boot id if the data are not synced to the disk
}

// openDataDir creates path if necessary, and locks it.
func openDataDir(path string) (*dataDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is used by another process: each relay needs a directory of its own", path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &dataDir{path, lock}, nil
}

func (d *dataDir) close() { d.lock.Close() }

func (d *dataDir) ownerFile() string { return filepath.Join(d.path, "owner.json") }

// owner returns the owner of the data in the directory. ok is false if it has none.
func (d *dataDir) owner() (o owner, ok bool, err error) {
	if _, err := os.Stat(filepath.Join(d.path, "member", "wal")); errors.Is(err, os.ErrNotExist) {
		return o, false, nil
	}
	text, err := os.ReadFile(d.ownerFile())
	if errors.Is(err, os.ErrNotExist) {
		return o, false, nil // the process ended before its member was ready
	}
	if err != nil {
		return o, false, err
	}
	if err := json.Unmarshal(text, &o); err != nil {
		return o, false, fmt.Errorf("%s: %w; delete %s, and the relay gets the data from the others", d.ownerFile(), err, d.path)
	}
	return o, true, nil
}

// setOwner writes o, in one step.
func (d *dataDir) setOwner(o owner) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.ownerFile()+".new", append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(d.ownerFile()+".new", d.ownerFile())
}

// discard deletes the member's data.
func (d *dataDir) discard() error {
	return errors.Join(os.RemoveAll(filepath.Join(d.path, "member")), os.RemoveAll(d.ownerFile()))
}

// bootID identifies the time since the machine's last start, or is empty if the system
// does not tell.
func bootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
