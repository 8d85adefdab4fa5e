package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/replacefile"
)

const (
	// bansName is the name of the file of bans in --state-dir.
	bansName = "bans.json"

	// maxBansFile is the longest file of bans. relay.MaxBans of them have 5 MB.
	maxBansFile = 32 << 20

	// saveTime is the longest time for which an operator waits until a ban is on the disk.
	saveTime = 5 * time.Second
)

// banRecord is a ban in the file, and on the way to other nodes.
type banRecord struct {
	What   string    `json:"what"` // the text of its key
	Label  string    `json:"label,omitempty"`
	Made   time.Time `json:"made"`
	Until  time.Time `json:"until"`
	Lifted bool      `json:"lifted,omitempty"`
	Why    string    `json:"why,omitempty"`
	By     string    `json:"by,omitempty"`
}

func recordOf(b relay.Ban) banRecord {
	return banRecord{b.Key.String(), b.Label, b.Made, b.Until, b.Lifted, b.Why, b.By}
}

func (r banRecord) ban() (relay.Ban, error) {
	key, err := relay.ParseBanKey(r.What)
	if err == nil && r.Until.Sub(r.Made) > relay.MaxBanTime {
		err = relay.ErrLongBan
	}
	return relay.Ban{Key: key, Label: r.Label, Made: r.Made, Until: r.Until, Lifted: r.Lifted, Why: r.Why, By: r.By}, err
}

// bansFile is the content of the file.
type bansFile struct {
	Version int         `json:"version"`
	Bans    []banRecord `json:"bans"`
}

// banStore keeps the bans of a relay in a file. A nil *banStore keeps nothing; its
// methods may be called.
type banStore struct {
	relay    *relay.Relay
	log      *slog.Logger
	path     string
	requests chan chan<- error
}

// newBanStore returns the store in the directory, which it creates. It returns nil if
// dir is empty. The bans in the file are in force when it returns. A file that cannot be
// read as bans is logged and renamed; an unreadable one ends the start.
func newBanStore(dir string, r *relay.Relay, log *slog.Logger) (*banStore, error) {
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("--state-dir: %w", err)
	}
	s := &banStore{relay: r, log: log, path: filepath.Join(dir, bansName), requests: make(chan chan<- error, 64)}
	text, err := config.ReadFile(s.path, maxBansFile, false)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, nil
	case err != nil:
		return nil, fmt.Errorf("--state-dir: %s: %w", s.path, err)
	}
	n, err := s.load(text)
	if err != nil {
		if moved := s.putAside(n, err); moved != nil {
			return nil, fmt.Errorf("--state-dir: %w", moved) // the next save would overwrite it
		}
		if n > 0 {
			return s, s.write()
		}
		return s, nil
	}
	if n > 0 {
		log.Info("bans are in force again after the restart", "count", n, "path", s.path)
	}
	return s, nil
}

// load puts the bans in text into force. It returns how many bans that are not lifted
// are in force. A bad record is left out: n then counts the others, and err names the first
// bad one.
func (s *banStore) load(text []byte) (n int, err error) {
	var f bansFile
	if err := json.Unmarshal(text, &f); err != nil {
		return 0, err
	}
	if f.Version != 1 {
		return 0, fmt.Errorf("version: %d is not 1", f.Version)
	}
	for i, r := range f.Bans {
		b, bad := r.ban()
		applied := false
		if bad == nil {
			applied, _, bad = s.relay.Ban(b)
		}
		if bad != nil && err == nil {
			err = fmt.Errorf("bans: number %d: %w", i+1, bad)
		}
		if applied && !b.Lifted {
			n++
		}
	}
	return n, err
}

// putAside renames a file of which only n bans are in force, so that the next save does
// not overwrite it.
func (s *banStore) putAside(n int, why error) error {
	aside := s.path + ".broken-" + time.Now().UTC().Format("20060102T150405Z")
	if err := os.Rename(s.path, aside); err != nil {
		return err
	}
	s.log.Error("the file of bans has a mistake: the relay applies the records that it can read and keeps the file under another name", "path", aside, "count", n, "err", why)
	return nil
}

// keep writes the file at each request, until ctx ends. A write can hang, so the process
// must not wait for the end of keep.
func (s *banStore) keep(ctx context.Context) {
	if s == nil {
		return
	}
	for {
		var waiting []chan<- error
		select {
		case <-ctx.Done():
			return
		case r := <-s.requests:
			waiting = append(waiting, r)
		}
		for len(s.requests) > 0 {
			waiting = append(waiting, <-s.requests)
		}
		err := s.write()
		if err != nil {
			s.log.Error("bans cannot be written: they are in force, and a restart forgets them", "path", s.path, "err", err)
		}
		for _, r := range waiting {
			r <- err
		}
	}
}

// write replaces the file in one step.
func (s *banStore) write() error {
	f := bansFile{Version: 1, Bans: []banRecord{}}
	for _, b := range s.relay.Bans() {
		f.Bans = append(f.Bans, recordOf(b))
	}
	text, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return err
	}
	return replacefile.Write(s.path, append(text, '\n'), nil)
}

// save makes keep write the bans and waits for that, for saveTime at most.
func (s *banStore) save() error {
	if s == nil {
		return nil
	}
	late := time.NewTimer(saveTime)
	defer late.Stop()
	done := make(chan error, 1)
	select {
	case s.requests <- done:
	case <-late.C:
		return errSaveHangs
	}
	select {
	case err := <-done:
		return err
	case <-late.C:
		return errSaveHangs
	}
}

var errSaveHangs = fmt.Errorf("the disk of --state-dir has not answered for %v", saveTime)
