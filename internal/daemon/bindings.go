package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/access"
	"github.com/pyrycode/pyrycode-relay/internal/config"
)

const (
	// bindingsName is the name of the file in --state-dir with the token of each
	// server-id.
	bindingsName = "token-bindings"

	// bindingsEvery is the time between two checks for new bindings.
	bindingsEvery = time.Second

	// lastSave is the longest time that the end of the process waits for the last save.
	lastSave = time.Second
)

// bindingStore keeps the bindings of server-ids to tokens in a file. A nil *bindingStore
// keeps nothing; its methods may be called.
type bindingStore struct {
	bindings *access.Bindings
	log      *slog.Logger
	path     string

	mu    sync.Mutex // held during a write
	saved *success
}

// newBindingStore loads the bindings in the directory, which it creates. It returns nil if
// dir is empty. A file that is damaged ends the start: without it other tokens could claim
// the server-ids.
func newBindingStore(dir string, b *access.Bindings, log *slog.Logger, saved *success) (*bindingStore, error) {
	if dir == "" {
		log.Warn("server-ids are bound to tokens in memory only: after a restart each is free for the first token; --state-dir keeps them")
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("--state-dir: %w", err)
	}
	s := &bindingStore{bindings: b, log: log, path: filepath.Join(dir, bindingsName), saved: saved}
	text, err := config.ReadFile(s.path, access.MaxFile, false)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, nil
	case err == nil:
		err = b.Load(text)
	}
	if err != nil {
		return nil, fmt.Errorf("--state-dir: %s is not usable: %w; restore it, or remove it to begin without bindings", s.path, err)
	}
	return s, nil
}

// keep saves new bindings every second until ctx ends. A write can hang, so the process
// must not wait for the end of keep.
func (s *bindingStore) keep(ctx context.Context) {
	if s == nil {
		return
	}
	every(ctx, bindingsEvery, s.save)
}

// save writes the bindings, if they have changed.
func (s *bindingStore) save() {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.bindings.Changes()
	if text == nil {
		return
	}
	err := access.EditFile(s.path, func([]byte) ([]byte, error) { return text, nil })
	if err == nil {
		s.saved.succeeded()
		return
	}
	s.bindings.Failed()
	if s.saved.failed(err) {
		s.log.Error("token-bindings: not saved; a restart forgets the newest ones", "path", s.path, "err", err)
	}
}

// saveLast saves the newest bindings at the end of the process. It waits for lastSave at
// most. keep must have been told to end.
func (s *bindingStore) saveLast() {
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastSave)
	defer cancel()
	_, _ = interruptible(ctx, func() struct{} {
		s.save()
		return struct{}{}
	})
}
