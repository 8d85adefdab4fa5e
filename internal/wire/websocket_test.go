package wire

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// Every client must be able to read the header. Therefore the test compares it with the RFC
// and not with this package's own parser.
func TestAppendHeader(t *testing.T) {
	for _, tt := range []struct {
		op   Opcode
		n    int
		want []byte
	}{
		{OpText, 0, []byte{0x81, 0}},
		{OpPong, 125, []byte{0x8a, 125}},
		{OpText, 126, []byte{0x81, 126, 0, 126}},
		{OpText, 65535, []byte{0x81, 126, 0xff, 0xff}},
		{OpText, 65536, []byte{0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0}},
	} {
		t.Run(fmt.Sprint(tt.op, " of ", tt.n, " bytes"), func(t *testing.T) {
			got := AppendHeader([]byte("x"), tt.op, tt.n)
			if !bytes.Equal(got[1:], tt.want) || got[0] != 'x' {
				t.Errorf("AppendHeader(%d, %d) = %x; want %x", tt.op, tt.n, got, tt.want)
			}
			if len(got)-1 > MaxHeader {
				t.Errorf("AppendHeader(%d, %d) is %d bytes; MaxHeader = %d", tt.op, tt.n, len(got)-1, MaxHeader)
			}
			payload := make([]byte, tt.n)
			if got := AppendMessage(nil, tt.op, payload); !bytes.Equal(got, append(tt.want, payload...)) {
				t.Errorf("AppendMessage(%d, %d bytes) is not header and payload", tt.op, tt.n)
			}
		})
	}
}

func TestUnmask(t *testing.T) {
	text := strings.Repeat("abcdefghijk", 20)
	masked := []byte(text)
	for i := range masked {
		masked[i] ^= testKey[i%4]
	}
	for n := range 200 {
		for cut := range n + 1 {
			got := bytes.Clone(masked[:n+1])
			key := unmask(got[:cut], 0x3d21fa37)
			unmask(got[cut:n], key)
			if string(got[:n]) != text[:n] || got[n] != masked[n] {
				t.Fatalf("%d bytes in parts of %d and %d: got %q; want %q", n, cut, n-cut, got, text[:n])
			}
		}
	}
}
