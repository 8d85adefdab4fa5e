package clustertest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
)

// patience is how long a test waits for an event that must happen.
const patience = 15 * time.Second

// The times to live of sessions that no test waits to end, and of those that end. The
// latter is the shortest that etcd grants.
const (
	long  = time.Minute
	short = 2 * time.Second
)

// TestDirectory tests two connections to the same directory against the contract of
// cluster.Directory. No other client may write below cluster.NodesPrefix meanwhile.
func TestDirectory(t *testing.T, a, b cluster.Directory) {
	d := &directories{a: a, b: b}
	if err := b.WatchNodes(t.Context(), d.watch); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		f    func(*testing.T)
	}{
		{"one of many creates, and the others get its entry", d.oneOfManyCreates},
		{"a replacement needs the newest revision", d.replaceNeedsRevision},
		{"one of many replaces a revision", d.oneOfManyReplaces},
		{"a deletion needs the newest revision", d.deleteNeedsRevision},
		{"each change of a write has its own result", d.changesHaveOwnResults},
		{"a write has as many changes as it may have", d.writesHaveManyChanges},
		{"a session ends unless it is kept alive, and takes its entries along", d.sessionsExpire},
		{"a replaced entry belongs to the new session", d.replacedEntryChangesSession},
		{"the end of a session deletes all its entries in one step", d.revokeDeletesAll},
		{"under a session that has ended nothing is created", d.nothingUnderEndedSession},
		{"the watch reports the nodes", d.nodesAreWatched},
	} {
		t.Run(test.name, test.f)
	}
}

// directories is two connections; b watches the nodes.
type directories struct {
	a, b cluster.Directory

	mu    sync.Mutex // guards nodes
	nodes []cluster.Entry
}

func (d *directories) watch(nodes []cluster.Entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nodes = slices.Clone(nodes)
}

// until waits until cond is true.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// grant begins a session that lasts until the end of the test.
func grant(t *testing.T, d cluster.Directory, ttl time.Duration) cluster.SessionID {
	t.Helper()
	s, err := d.Grant(ttl)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Revoke(s); err != nil {
			t.Error(err)
		}
	})
	return s
}

func create(t *testing.T, d cluster.Directory, key, value string, s cluster.SessionID) cluster.Entry {
	t.Helper()
	e, err := replace(d, key, value, 0, s)
	if err != nil || e.Key != key || string(e.Value) != value || e.Revision == 0 || e.Session != s {
		t.Fatalf("create %s: %+v, %v", key, e, err)
	}
	return e
}

// replace replaces an entry; revision 0 creates it.
func replace(d cluster.Directory, key, value string, revision uint64, s cluster.SessionID) (cluster.Entry, error) {
	return cluster.WriteOne(d, s, cluster.Change{Key: key, Value: []byte(value), Revision: revision})
}

func remove(d cluster.Directory, key string, revision uint64) error {
	_, err := cluster.WriteOne(d, 0, cluster.Change{Key: key, Revision: revision, Delete: true})
	return err
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v; want %v", what, err, want)
	}
}

func wantEntry(t *testing.T, d cluster.Directory, want cluster.Entry) {
	t.Helper()
	if e, err := d.Get(want.Key); err != nil || string(e.Value) != string(want.Value) || e.Revision != want.Revision || e.Session != want.Session {
		t.Errorf("%s is %+v, %v; want %+v", want.Key, e, err, want)
	}
}

func wantNone(t *testing.T, d cluster.Directory, key string) {
	t.Helper()
	_, err := d.Get(key)
	wantErr(t, key, err, cluster.ErrNotFound)
}

func (d *directories) oneOfManyCreates(t *testing.T) {
	s := grant(t, d.a, long)
	for i := range 20 {
		key := fmt.Sprintf("claims/one%d", i)
		d.oneWins(t, key, func(dir cluster.Directory, value string) (cluster.Entry, error) {
			return replace(dir, key, value, 0, s)
		})
	}
}

func (d *directories) oneOfManyReplaces(t *testing.T) {
	s := grant(t, d.a, long)
	for i := range 20 {
		key := fmt.Sprintf("claims/replace%d", i)
		old := create(t, d.a, key, "old", s)
		d.oneWins(t, key, func(dir cluster.Directory, value string) (cluster.Entry, error) {
			return replace(dir, key, value, old.Revision, s)
		})
	}
}

// oneWins calls write concurrently and checks that one call succeeds, and that the others
// return its entry.
func (d *directories) oneWins(t *testing.T, key string, write func(d cluster.Directory, value string) (cluster.Entry, error)) {
	t.Helper()
	const writers = 6
	var wg sync.WaitGroup
	var entries [writers]cluster.Entry
	var errs [writers]error
	for i := range writers {
		wg.Go(func() { entries[i], errs[i] = write([]cluster.Directory{d.a, d.b}[i%2], fmt.Sprint(i)) })
	}
	wg.Wait()
	won := 0
	for i := range writers {
		if errs[i] == nil {
			won++
			wantEntry(t, d.b, entries[i])
		} else {
			wantErr(t, key, errs[i], cluster.ErrConflict)
			wantEntry(t, d.a, entries[i])
		}
	}
	if won != 1 {
		t.Errorf("%s: %d of %d succeeded; want 1", key, won, writers)
	}
}

func (d *directories) replaceNeedsRevision(t *testing.T) {
	s := grant(t, d.a, long)
	old := create(t, d.a, "claims/r", "1", s)
	e, err := replace(d.b, "claims/r", "2", old.Revision, s)
	if err != nil || e.Revision <= old.Revision {
		t.Fatalf("replace: %+v, %v; it had %+v", e, err, old)
	}
	now, err := replace(d.a, "claims/r", "3", old.Revision, s)
	wantErr(t, "replace of an old revision", err, cluster.ErrConflict)
	wantEntry(t, d.b, now)
	wantEntry(t, d.a, e)
	now, err = replace(d.a, "claims/none", "3", e.Revision, s)
	wantErr(t, "replace without an entry", err, cluster.ErrConflict)
	if now.Revision != 0 {
		t.Errorf("it returned %+v; want no revision", now)
	}
}

func (d *directories) deleteNeedsRevision(t *testing.T) {
	s := grant(t, d.a, long)
	e := create(t, d.a, "claims/d", "1", s)
	wantErr(t, "deletion of another revision", remove(d.b, "claims/d", e.Revision+1), cluster.ErrConflict)
	wantEntry(t, d.b, e)
	if err := remove(d.b, "claims/d", e.Revision); err != nil {
		t.Fatal(err)
	}
	wantNone(t, d.a, "claims/d")
	wantErr(t, "second deletion", remove(d.a, "claims/d", e.Revision), cluster.ErrConflict)
	if again := create(t, d.a, "claims/d", "2", s); again.Revision <= e.Revision {
		t.Errorf("the revision is %d after %d", again.Revision, e.Revision)
	}
}

func (d *directories) changesHaveOwnResults(t *testing.T) {
	s, other := grant(t, d.a, long), grant(t, d.a, long)
	taken := create(t, d.a, "claims/many-taken", "1", other)
	swapped := create(t, d.a, "claims/many-swapped", "2", other)
	removed := create(t, d.a, "claims/many-removed", "3", other)
	changes := []cluster.Change{
		{Key: "claims/many-new", Value: []byte("a")},
		{Key: taken.Key, Value: []byte("b")},
		{Key: swapped.Key, Value: []byte("c"), Revision: swapped.Revision},
		{Key: removed.Key, Revision: removed.Revision, Delete: true},
		{Key: "claims/many-none", Revision: removed.Revision, Delete: true},
		{Key: "claims/many-gone", Value: []byte("d"), Revision: removed.Revision},
		{Key: "claims/many-last", Value: []byte("e")},
	}
	results, err := d.b.Write(s, changes)
	if err != nil || len(results) != len(changes) {
		t.Fatalf("%+v, %v", results, err)
	}
	for i, want := range []struct {
		conflict bool
		value    string
		session  cluster.SessionID // 0: there is no entry
	}{{false, "a", s}, {true, "1", other}, {false, "c", s}, {false, "", 0}, {true, "", 0}, {true, "", 0}, {false, "e", s}} {
		e := results[i].Entry
		if results[i].Conflict != want.conflict || string(e.Value) != want.value || e.Session != want.session || want.session == 0 != (e.Revision == 0) {
			t.Errorf("%s: %+v; want %+v", changes[i].Key, results[i], want)
		}
		if want.session == 0 {
			wantNone(t, d.a, changes[i].Key)
			continue
		}
		if e.Key != changes[i].Key {
			t.Errorf("%s: the entry is %+v", changes[i].Key, e)
		}
		wantEntry(t, d.a, e)
	}
	if again, err := replace(d.a, "claims/many-last", "f", results[6].Entry.Revision, s); err != nil || again.Revision <= results[6].Entry.Revision {
		t.Errorf("a later change: %+v, %v", again, err)
	}
}

func (d *directories) writesHaveManyChanges(t *testing.T) {
	s := grant(t, d.a, long)
	changes := make([]cluster.Change, cluster.MaxChanges)
	for i := range changes {
		changes[i] = cluster.Change{Key: fmt.Sprint("claims/full", i), Value: []byte(fmt.Sprint(i))}
	}
	for _, conflict := range []bool{false, true} {
		results, err := d.b.Write(s, changes)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			if r.Conflict != conflict || string(r.Entry.Value) != fmt.Sprint(i) {
				t.Errorf("change %d: %+v", i, r)
			}
		}
	}
	if results, err := d.b.Write(s, []cluster.Change{changes[0], changes[0]}); err == nil {
		t.Errorf("two changes of one key: %+v", results)
	}
}

func (d *directories) sessionsExpire(t *testing.T) {
	kept := grant(t, d.a, short)
	stays := create(t, d.a, "claims/kept", "1", kept)
	began := time.Now()
	s := grant(t, d.a, short)
	ends := create(t, d.a, "claims/ends", "1", s)
	for range 3 {
		time.Sleep(short / 4)
		began = time.Now()
		for _, s := range []cluster.SessionID{s, kept} {
			if err := d.b.KeepAlive(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	until(t, "the entry to end", func() bool {
		if err := d.a.KeepAlive(kept); err != nil {
			t.Fatal(err)
		}
		_, err := d.a.Get(ends.Key)
		return errors.Is(err, cluster.ErrNotFound)
	})
	if lived := time.Since(began); lived < short {
		t.Errorf("it ended %v after the last keep-alive; want %v or more", lived, short)
	}
	wantErr(t, "keep-alive of a session that has ended", d.a.KeepAlive(s), cluster.ErrSessionGone)
	wantEntry(t, d.b, stays)
}

func (d *directories) replacedEntryChangesSession(t *testing.T) {
	first, second := grant(t, d.a, long), grant(t, d.a, long)
	old := create(t, d.a, "claims/moved", "1", first)
	e, err := replace(d.a, old.Key, "2", old.Revision, second)
	if err != nil || e.Session != second {
		t.Fatalf("replace: %+v, %v", e, err)
	}
	if err := d.b.Revoke(first); err != nil {
		t.Fatal(err)
	}
	wantEntry(t, d.b, e)
	if err := d.b.Revoke(second); err != nil {
		t.Fatal(err)
	}
	wantNone(t, d.a, e.Key)
}

func (d *directories) revokeDeletesAll(t *testing.T) {
	s := grant(t, d.a, long)
	const n = 50
	for i := range n {
		create(t, d.a, fmt.Sprintf("claims/all%d", i), "1", s)
	}
	for range 2 { // the second time it has ended already
		if err := d.b.Revoke(s); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		wantNone(t, d.a, fmt.Sprintf("claims/all%d", i))
	}
}

func (d *directories) nothingUnderEndedSession(t *testing.T) {
	s, other := grant(t, d.a, long), grant(t, d.a, long)
	e := create(t, d.a, "claims/other", "1", other)
	if err := d.a.Revoke(s); err != nil {
		t.Fatal(err)
	}
	_, err := replace(d.b, "claims/late", "1", 0, s)
	wantErr(t, "create", err, cluster.ErrSessionGone)
	wantNone(t, d.a, "claims/late")
	_, err = replace(d.b, e.Key, "2", e.Revision, s)
	wantErr(t, "replace", err, cluster.ErrSessionGone)
	wantEntry(t, d.a, e)
	_, err = d.b.Write(s, []cluster.Change{{Key: e.Key, Revision: e.Revision, Delete: true}, {Key: "claims/late", Value: []byte("1")}})
	wantErr(t, "write of several", err, cluster.ErrSessionGone)
	wantEntry(t, d.a, e)
	wantErr(t, "keep-alive", d.a.KeepAlive(s), cluster.ErrSessionGone)
}

func (d *directories) nodesAreWatched(t *testing.T) {
	seen := func(want ...cluster.Entry) {
		t.Helper()
		slices.SortFunc(want, func(a, b cluster.Entry) int { return int(a.Session - b.Session) })
		until(t, fmt.Sprint("the nodes to be ", want), func() bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			got := slices.Clone(d.nodes)
			slices.SortFunc(got, func(a, b cluster.Entry) int { return int(a.Session - b.Session) })
			return fmt.Sprint(got) == fmt.Sprint(want)
		})
	}
	seen()
	first, second := grant(t, d.a, long), grant(t, d.a, long)
	one := create(t, d.a, cluster.NodeKey(first), "one", first)
	seen(one)
	two := create(t, d.a, cluster.NodeKey(second), "two", second)
	create(t, d.a, "claims/unwatched", "1", second)
	seen(one, two)
	changed, err := replace(d.a, two.Key, "changed", two.Revision, second)
	if err != nil {
		t.Fatal(err)
	}
	seen(one, changed)
	if err := d.a.Revoke(first); err != nil {
		t.Fatal(err)
	}
	seen(changed)
	if err := remove(d.a, changed.Key, changed.Revision); err != nil {
		t.Fatal(err)
	}
	seen()
}
