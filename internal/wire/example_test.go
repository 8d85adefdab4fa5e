package wire_test

import (
	"fmt"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// A client has sent a text message in two fragments, with a ping between them.
// The bytes arrive in two reads, and the first one ends within a frame.
func ExampleAssembler() {
	reads := [][]byte{
		{0x01, 0x83, 0, 0, 0, 0, 'h', 'e', 'l', 0x89, 0x82, 0, 0, 0, 0, 'h'},
		{'i', 0x80, 0x82, 0, 0, 0, 0, 'l', 'o'},
	}
	limits := wire.Limits{Message: 1024, Fragments: 16}
	var a wire.Assembler
	defer a.Discard()
	for i, b := range reads {
		for {
			m, rest, err := a.Next(b, &limits)
			if err != nil {
				fmt.Println(err)
				return
			}
			if m.Op == wire.OpContinuation {
				fmt.Printf("read %d: no further message; one is incomplete: %t\n", i+1, a.Pending())
				break
			}
			fmt.Printf("read %d: ping %t, payload %q\n", i+1, m.Op == wire.OpPing, m.Payload)
			b = rest
		}
	}
	// Output:
	// read 1: no further message; one is incomplete: true
	// read 2: ping true, payload "hi"
	// read 2: ping false, payload "hello"
	// read 2: no further message; one is incomplete: false
}

// A message over the limit is an error with a close code and a reason for the
// peer. No further bytes of that connection are read.
func ExampleAssembler_limits() {
	var a wire.Assembler
	defer a.Discard()
	header := []byte{0x81, 0xfe, 0x04, 0x01, 0, 0, 0, 0} // a text message of 1,025 bytes
	_, _, err := a.Next(header, &wire.Limits{Message: 1024, Fragments: 16})
	fmt.Println(err)
	// Output:
	// close 1009: message too big
}
