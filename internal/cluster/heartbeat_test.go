package cluster

import (
	"bytes"
	"strings"
	"testing"
)

func TestWhatIsAHeartbeat(t *testing.T) {
	id := NodeID{1, 2}
	plain := heartbeatMessage{node: id, at: 5}.append(nil)
	named := func(name string) []byte { return heartbeatMessage{node: id, at: 5, name: name}.append(nil) }
	for _, tt := range []struct {
		what string
		p    []byte
		want heartbeatMessage
		ok   bool
	}{
		{"plain", plain, heartbeatMessage{node: id, at: 5}, true},
		{"echo", heartbeatMessage{node: id, at: 5, echo: true}.append(nil), heartbeatMessage{node: id, at: 5, echo: true}, true},
		{"name", named("relay-1"), heartbeatMessage{node: id, at: 5, name: "relay-1"}, true},
		{"longest name", named(strings.Repeat("x", maxName)), heartbeatMessage{node: id, at: 5, name: strings.Repeat("x", maxName)}, true},
		{"name that does not print", named("a\nb\x1b[2J"), heartbeatMessage{node: id, at: 5, name: `a\nb\x1b[2J`}, true},
		{"name that is too long", named(strings.Repeat("x", maxName+1)), heartbeatMessage{}, false},
		{"bytes without a flag", append(bytes.Clone(plain), "relay-1"...), heartbeatMessage{}, false},
		{"flag without bytes", append([]byte{protocol, 4}, plain[2:]...), heartbeatMessage{}, false},
		{"too short", plain[:heartbeatSize-1], heartbeatMessage{}, false},
		{"another version", append([]byte{protocol + 1}, plain[1:]...), heartbeatMessage{}, false},
	} {
		if got, ok := parseHeartbeat(tt.p); ok != tt.ok || ok && got != tt.want {
			t.Errorf("%s: %+v, %t; want %+v, %t", tt.what, got, ok, tt.want, tt.ok)
		}
	}
}
