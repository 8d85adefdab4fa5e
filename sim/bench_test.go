package sim

import (
	"sync"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// The registry takes its lock as an interface. This costs almost nothing
// compared with a mutex in the struct.
func BenchmarkInjectedLock(b *testing.B) {
	b.Run("mutex", func(b *testing.B) {
		var mu sync.Mutex
		n := 0
		for b.Loop() {
			mu.Lock()
			n++
			mu.Unlock()
		}
	})
	b.Run("locker", func(b *testing.B) {
		var mu sync.Locker = new(sync.Mutex)
		n := 0
		for b.Loop() {
			mu.Lock()
			n++
			mu.Unlock()
		}
	})
	b.Run("registry", func(b *testing.B) {
		r := relay.NewRegistry[int, int](relay.RegistryConfig[int]{})
		r.Claim("s1", 1, relay.Terms{})
		for b.Loop() {
			r.Join("s1", 7)
			r.Leave("s1", 7)
		}
	})
}
