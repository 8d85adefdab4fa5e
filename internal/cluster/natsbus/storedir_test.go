//go:build !lean

package natsbus

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestSweepRemovesOnlyTheDirectoriesOfKilledServers(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	alive, lock, err := storeDir()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	dead, gone, err := storeDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dead, "stream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	gone.Close() // as the end of its process does
	strange := filepath.Join(os.TempDir(), storePrefix+"other")
	if err := os.Mkdir(strange, 0o700); err != nil { // without a lock, so its owner is unknown
		t.Fatal(err)
	}
	sweep()
	for dir, want := range map[string]bool{alive: true, dead: false, strange: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v; want it there: %v", filepath.Base(dir), err, want)
		}
	}
}

// Files of another user with names like ours, in the directory for temporary files,
// neither delay a start nor are removed.
func TestAStartOpensNothingThatIsNotOurs(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	elsewhere := t.TempDir()
	secret := filepath.Join(elsewhere, lockName)
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(os.TempDir(), storePrefix+name) }
	lock := func(name string) string { return filepath.Join(at(name), lockName) }
	plant := map[string]func() error{
		"pipe": func() error { return syscall.Mkfifo(lock("pipe"), 0o600) },
		"link": func() error { return os.Symlink(secret, lock("link")) },
		"link-to-a-pipe": func() error {
			return errors.Join(syscall.Mkfifo(secret+"2", 0o600), os.Symlink(secret+"2", lock("link-to-a-pipe")))
		},
		"hard-link": func() error { return os.Link(secret, lock("hard-link")) },
		"directory": func() error { return os.Mkdir(lock("directory"), 0o700) },
		"device":    func() error { return os.Symlink("/dev/zero", lock("device")) },
		"socket":    func() error { return syscall.Mknod(lock("socket"), syscall.S_IFSOCK|0o600, 0) },
		"open-to-others": func() error {
			return errors.Join(os.WriteFile(lock("open-to-others"), nil, 0o600), os.Chmod(at("open-to-others"), 0o777))
		},
		"of-another-user": func() error {
			if os.Geteuid() != 0 {
				return os.WriteFile(lock("of-another-user")+"2", nil, 0o600) // only root can give a file away
			}
			return errors.Join(os.WriteFile(lock("of-another-user"), nil, 0o600), os.Chown(lock("of-another-user"), 12345, 0))
		},
	}
	for name, make := range plant {
		if err := errors.Join(os.Mkdir(at(name), 0o700), make()); err != nil {
			t.Fatal(name, err)
		}
	}
	if err := errors.Join(os.Symlink(elsewhere, at("linked")), syscall.Mkfifo(at("no-directory"), 0o600)); err != nil {
		t.Fatal(err)
	}
	swept := make(chan struct{})
	go func() { sweep(); close(swept) }()
	select {
	case <-swept:
	case <-time.After(10 * time.Second):
		t.Fatal("the start waits for a pipe without a writer")
	}
	for name := range plant {
		if _, err := os.Lstat(at(name)); err != nil {
			t.Errorf("%s: %v; want it left alone", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(at("linked"), lockName)); err != nil {
		t.Errorf("a directory behind a link: %v; want it left alone", err)
	}
}
