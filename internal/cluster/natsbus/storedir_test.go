package natsbus

import (
	"os"
	"path/filepath"
	"testing"
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
