package access

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// book parses a file of server-ids.
func book(t testing.TB, format string, args ...any) *Book {
	t.Helper()
	b, err := ParseBook(fmt.Appendf(nil, format+"\n", args...), ServerIDs)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// status returns the status with which p refuses a claim or a join, or 0.
func status(t fataler, p *Policy, q relay.AccessQuestion) int {
	t.Helper()
	_, err := p.Ask(q)
	if err == nil {
		return 0
	}
	no, ok := errors.AsType[*relay.AccessRefusal](err)
	if !ok || no.Text == "" {
		t.Fatalf("an error of another kind: %v", err)
	}
	return no.Status
}

func TestAListAdmitsItsServerIDsAndNoOther(t *testing.T) {
	p := NewList(relay.Runtime{})
	binary := func(id wire.ServerID) relay.AccessQuestion { return relay.AccessQuestion{Server: id} }
	if got := status(t, p, binary("s1")); got != 403 {
		t.Errorf("before the first list: %d; want 403", got)
	}
	p.Use(book(t, "s1 phones=3\nsha256:%s\ns3 expires=2000-01-01", SubjectOf("s2")))
	for id, want := range map[wire.ServerID]int{"s1": 0, "s2": 0, "s3": 403, "s4": 403, wire.ServerID(SubjectOf("s2").String()): 403} {
		if got := status(t, p, binary(id)); got != want {
			t.Errorf("binary of %s: %d; want %d", id, got, want)
		}
		if got := p.Allowed(id, ""); got != (want == 0) {
			t.Errorf("%s allowed: %t", id, got)
		}
		if got := status(t, p, relay.AccessQuestion{Server: id, Phone: true}); got != 0 {
			t.Errorf("phone of %s: %d; want 0", id, got)
		}
	}
	if terms, _ := p.Ask(binary("s1")); terms.MaxPhones != 3 {
		t.Errorf("terms of s1: %+v; want 3 phones", terms)
	}
}

func TestAnExpiryFiresAtItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewList(relay.Runtime{})
		var mu sync.Mutex
		var lost []time.Duration
		start := time.Now()
		was := true
		p.Attach(func() {
			mu.Lock()
			defer mu.Unlock()
			if is := p.Allowed("s1", ""); was && !is {
				lost = append(lost, time.Since(start))
				was = is
			}
		})
		p.Use(book(t, "s1 expires=%s", FormatTime(start.Add(150*time.Second))))
		time.Sleep(151 * time.Second)
		synctest.Wait()
		if len(lost) != 1 || lost[0] != 150*time.Second {
			t.Errorf("access was lost after %v; want 150s", lost)
		}
	})
}

func TestTheRateOfAServerIDCountsBinariesAndPhones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewList(relay.Runtime{})
		p.Use(book(t, "s1 rate=6\ns2"))
		phone, binary := relay.AccessQuestion{Server: "s1", Phone: true}, relay.AccessQuestion{Server: "s1"}
		for i := range 6 {
			q := phone
			if i%2 == 0 {
				q = binary
			}
			if got := status(t, p, q); got != 0 {
				t.Fatalf("attempt %d: %d", i, got)
			}
		}
		for _, q := range []relay.AccessQuestion{phone, binary} {
			_, err := p.Ask(q)
			if no, ok := errors.AsType[*relay.AccessRefusal](err); !ok || no.Status != 429 || no.Wait != 10 {
				t.Errorf("the seventh attempt: %+v; want 429, 10 s", err)
			}
		}
		p.Use(book(t, "s1 rate=6\ns3")) // an unchanged entry keeps what it has used up
		if got := status(t, p, phone); got != 429 {
			t.Errorf("after a reload: %d; want 429", got)
		}
		time.Sleep(10 * time.Second)
		if got := status(t, p, phone); got != 0 {
			t.Errorf("after 10s: %d; want 0", got)
		}
		p.Use(book(t, "s2"))
		if len(p.limiters) != 0 {
			t.Error("the limiter of an entry that is gone is kept")
		}
	})
}

// The costs of a long list, for docs/access.md.
func TestALongListCostsLittle(t *testing.T) {
	if testing.Short() {
		t.Skip("measures")
	}
	const n = 100_000
	text := bigFile(n)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began := time.Now()
	b, err := ParseBook(text, ServerIDs)
	took := time.Since(began)
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	held := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	p := NewList(relay.Runtime{})
	p.Use(b)
	began = time.Now()
	for i := range n {
		if !p.Allowed(wire.ServerID(fmt.Sprint("s", i)), "") {
			t.Fatalf("s%d is not allowed", i)
		}
	}
	t.Logf("%d entries, %d MiB: parsed in %v, %d MiB held, a look-up %v", n, len(text)>>20, took, held>>20, time.Since(began)/n)
	runtime.KeepAlive(text)
	if held > 64<<20 || took > 10*time.Second {
		t.Errorf("parsed in %v, %d MiB held; want at most 10s, 64 MiB", took, held>>20)
	}
}
