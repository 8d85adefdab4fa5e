package daemon

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestTheEndOfTheLogIsKept(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lines int
		width int
	}{
		{"none", 0, 0},
		{"a few", 3, 100},
		{"as many as there is room for", recentBytes / 64, 63},
		{"one more", recentBytes/64 + 1, 63},
		{"many more, of another length", 10_000, 117},
		{"one that is longer than all", 1, recentBytes + 10},
		{"long ones", 40, 100_000},
	} {
		var through, all bytes.Buffer
		r := &recent{to: &through}
		for i := range tt.lines {
			line := fmt.Sprintf("%0*d\n", tt.width, i)
			all.WriteString(line)
			if n, err := io.WriteString(r, line); n != len(line) || err != nil {
				t.Fatalf("%s: Write() = %d, %v; want %d", tt.name, n, err, len(line))
			}
		}
		got := string(r.lines())
		if !bytes.Equal(through.Bytes(), all.Bytes()) {
			t.Errorf("%s: what is passed on is not what was written", tt.name)
		}
		if !strings.HasSuffix(all.String(), got) || len(got) > recentBytes || cap(r.ring) > 2*recentBytes {
			t.Errorf("%s: kept %d bytes, which are not the end of the log", tt.name, len(got))
		}
		least := min(all.Len(), recentBytes-tt.width-1)
		if len(got) < least || len(got) > 0 && len(got)%(tt.width+1) != 0 {
			t.Errorf("%s: kept %d bytes; want %d or more, in whole lines", tt.name, len(got), least)
		}
	}
}
