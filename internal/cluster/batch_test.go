package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowDirectory answers each Write after a second. Keys that begin with "taken" exist.
type slowDirectory struct {
	Directory
	fails bool // every call

	mu    sync.Mutex
	calls []string // session and keys of each Write
}

var errNoAnswerYet = errors.New("no answer")

func (d *slowDirectory) Write(s SessionID, changes []Change) ([]Result, error) {
	call := s.String() + ":"
	results := make([]Result, len(changes))
	for i, c := range changes {
		call += " " + c.Key
		results[i] = Result{Entry: Entry{Key: c.Key, Value: c.Value, Revision: 7, Session: s}}
		if strings.HasPrefix(c.Key, "taken") {
			results[i] = Result{Entry: Entry{Key: c.Key, Value: []byte("theirs"), Revision: 3}, Conflict: true}
		}
	}
	d.mu.Lock()
	d.calls = append(d.calls, call)
	d.mu.Unlock()
	time.Sleep(time.Second)
	if d.fails {
		return nil, errNoAnswerYet
	}
	return results, nil
}

// batch writes changes, "session:key" each, one after the other without waiting for answers,
// and checks the results. It returns the calls of the directory.
func batch(t *testing.T, d *slowDirectory, changes ...string) []string {
	t.Helper()
	cfg := Config{Directory: d}.withDefaults()
	b := newBatcher(&cfg)
	var wg sync.WaitGroup
	for i, change := range changes {
		s, key, _ := strings.Cut(change, ":")
		value := fmt.Sprint(i)
		wg.Go(func() {
			e, err := b.write(SessionID(s[0]-'0'), Change{Key: key, Value: []byte(value)})
			wantErr, wantValue := error(nil), value
			switch {
			case d.fails:
				wantErr, key, wantValue = errNoAnswerYet, "", ""
			case strings.HasPrefix(key, "taken"):
				wantErr, wantValue = ErrConflict, "theirs"
			}
			if !errors.Is(err, wantErr) || e.Key != key || string(e.Value) != wantValue {
				t.Errorf("%s: %+v, %v; want value %q and %v", change, e, err, wantValue, wantErr)
			}
		})
		synctest.Wait()
	}
	wg.Wait()
	return d.calls
}

func TestChangesThatWaitShareATransaction(t *testing.T) {
	all, full := []string{"1:a"}, "1:"
	for i := range MaxChanges + 1 {
		all = append(all, fmt.Sprint("1:k", i))
		if i < MaxChanges {
			full += fmt.Sprint(" k", i)
		}
	}
	for _, c := range []struct {
		name    string
		changes []string
		want    []string
	}{
		{"one change is written immediately", []string{"1:a"}, []string{"1: a"}},
		{"those that wait go together, each with its own result", []string{"1:a", "1:b", "1:taken-c", "1:d"}, []string{"1: a", "1: b taken-c d"}},
		{"a transaction has one session", []string{"1:a", "1:b", "2:c", "1:d", "2:e"}, []string{"1: a", "1: b d", "2: c e"}},
		{"a transaction has no more than MaxChanges", all, []string{"1: a", full, fmt.Sprint("1: k", MaxChanges)}},
	} {
		for _, fails := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, fails=%v", c.name, fails), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					if got := batch(t, &slowDirectory{fails: fails}, c.changes...); !slices.Equal(got, c.want) {
						t.Errorf("the transactions are %q; want %q", got, c.want)
					}
				})
			})
		}
	}
}
