package relay_test

import (
	"fmt"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// A binary claims a server-id and loses its connection. Its phones wait for it
// through the grace. In the first round a binary comes back in time, in the
// second none does. The clock is a fake one, so the example takes no time.
func ExampleRegistry() {
	mock := clock.NewMock()
	expired := make(chan struct{})
	r := relay.NewRegistry[string](relay.RegistryConfig[string]{
		Runtime: relay.Runtime{Clock: mock},
		Grace:   30 * time.Second,
		Expired: func(id wire.ServerID, phones []string) {
			fmt.Printf("grace of %s is over: close %v\n", id, phones)
			close(expired)
		},
	})
	show := func() {
		c := r.Counts()
		fmt.Printf("binaries %d, phones %d, in grace %d\n", c.Binaries, c.Phones, c.InGrace)
	}

	_, outcome := r.Join("home", "early phone")
	fmt.Println(outcome)
	fmt.Println(r.Claim("home", "first binary", relay.Terms{}).Outcome)
	binary, outcome := r.Join("home", "phone 1")
	fmt.Println(outcome, "with", binary)
	show()

	r.Release("home", "first binary")
	show()
	mock.Add(29 * time.Second)
	c := r.Claim("home", "second binary", relay.Terms{})
	fmt.Println(c.Outcome, "and close", c.Evicted)
	fmt.Println(r.Claim("home", "rival", relay.Terms{}).Outcome, "by", r.Holder("home"))

	r.Join("home", "phone 2")
	r.Release("home", "second binary")
	mock.Add(30 * time.Second)
	<-expired // Expired runs on a goroutine of its own
	show()
	// Output:
	// no server
	// claimed
	// joined with first binary
	// binaries 1, phones 1, in grace 0
	// binaries 0, phones 1, in grace 1
	// reclaimed and close [phone 1]
	// held by second binary
	// grace of home is over: close [phone 2]
	// binaries 0, phones 0, in grace 0
}
