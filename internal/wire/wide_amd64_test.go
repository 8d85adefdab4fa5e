//go:build !race

package wire

import (
	"bytes"
	"testing"
)

// naivePlain is scanPlain, byte by byte.
func naivePlain(b []byte, i int) int {
	for i < len(b) && plain[b[i]] {
		i++
	}
	return i
}

// Both ways to scan find each special byte at each index of texts of each length, and stop
// at the end of the text although a special byte follows.
func TestScanPlainFindsEachSpecialByte(t *testing.T) {
	defer func() { hasWide = true }()
	for _, hasWide = range []bool{false, true} {
		for n := range 200 {
			text := bytes.Repeat([]byte{'x'}, n+40)
			text[n] = '"'
			for at := range n {
				for _, c := range []byte{'"', '\\', 0, 0x1f, 0x80, 0xff, ' ', 0x7f, '!', '#', '[', ']'} {
					text[at] = c
					for _, from := range []int{0, at / 2, at} {
						if got, want := scanPlain(text[:n], from), naivePlain(text[:n], from); got != want {
							t.Fatalf("wide %v: %d bytes, %q at %d: scanPlain from %d = %d; want %d", hasWide, n, c, at, from, got, want)
						}
					}
				}
				text[at] = 'x'
			}
			if got := scanPlain(text[:n], 0); got != n {
				t.Fatalf("wide %v: %d plain bytes: scanPlain = %d", hasWide, n, got)
			}
		}
	}
}

// FuzzScanPlain compares both ways to scan with a loop over the bytes.
func FuzzScanPlain(f *testing.F) {
	f.Add([]byte(`{"v":2,"type":"noise_msg","data":"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2"}`), 3)
	f.Add([]byte("\x00\xff\"\\"), 0)
	f.Fuzz(func(t *testing.T, b []byte, from int) {
		if from < 0 || from > len(b) {
			return
		}
		want := naivePlain(b, from)
		if got := scanPlain(b, from); got != want {
			t.Errorf("scanPlain(%q, %d) = %d; want %d", b, from, got, want)
		}
		defer func() { hasWide = true }()
		hasWide = false
		if got := scanPlain(b, from); got != want {
			t.Errorf("without SSE2: scanPlain(%q, %d) = %d; want %d", b, from, got, want)
		}
	})
}
