package wire

import (
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"
)

func TestValidUTF8IsThatOfTheStandardLibrary(t *testing.T) {
	for _, part := range []string{"x", "é", "€", "😀", "x😀", "\xff"} {
		for _, more := range []string{"", "x", "xy", "xyz", "\xf0\x9f", "\x80"} {
			for _, at := range []int{0, yieldEvery - 3, yieldEvery, 2 * yieldEvery} {
				b := []byte(strings.Repeat(part, 3*yieldEvery/len(part)))
				b = append(append(append([]byte(nil), b[:at]...), more...), b[at:]...)
				if got, want := validUTF8(b), utf8.Valid(b); got != want {
					t.Errorf("%q with %q at %d: %t; want %t", part, more, at, got, want)
				}
			}
		}
	}
}

// While a long text is scanned, whatever it says, other goroutines run.
func TestTheScanOfALongTextYields(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const long = 1 << 20
	repeat := func(part string) string { return strings.Repeat(part, long/len(part)) }
	for name, text := range map[string]string{
		"empty arrays":      `{"frame":[` + repeat("[],") + `1]}`,
		"empty names":       `{"frame":[` + repeat(`{"":""},`) + `1]}`,
		"repeated fields":   `{` + repeat(`"close_code":1,`) + `"close_code":1}`,
		"unknown fields":    `{` + repeat(`"x":1,`) + `"conn_id":"c"}`,
		"fields of a wake":  `{"push_wake":{` + repeat(`"x":1,`) + `"x":1}}`,
		"escapes":           `{"frame":"` + repeat(`\n`) + `"}`,
		"surrogates":        `{"frame":"` + repeat(`\ud83d\ude00`) + `"}`,
		"not ASCII":         `{"frame":"` + repeat(`é€😀`) + `"}`,
		"nested as allowed": `{"frame":[` + repeat(strings.Repeat("[", 100)+strings.Repeat("]", 100)+",") + `1]}`,
	} {
		var ran atomic.Int64
		done, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for {
				select {
				case <-done:
					return
				default:
					ran.Add(1)
					runtime.Gosched()
				}
			}
		}()
		runtime.Gosched()
		before := ran.Load()
		_, err := ParseEnvelope([]byte(text))
		got := int(ran.Load() - before)
		close(done)
		<-ended
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want := long / yieldEvery * 9 / 10
		if strings.Contains(text, "push_wake") {
			want *= 2 // it is scanned twice
		}
		if got < want {
			t.Errorf("%s: another goroutine ran %d times while %d bytes were scanned; want at least %d", name, got, long, want)
		}
	}
}
