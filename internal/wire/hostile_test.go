package wire

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// hostile returns envelopes of about n bytes each, of the kinds that cost a parser most: valid
// ones, ones with an error at the end, and ones with nothing valid.
func hostile(n int) map[string]string {
	fill := func(piece string) string { return strings.Repeat(piece, n/len(piece)) }
	list := func(piece string) string { return `[` + fill(piece+`,`) + piece + `]` }
	frame := func(value string) string { return `{"conn_id":"c-0123456789abcdef","frame":` + value + `}` }
	deep := min(n/2, MaxNesting)
	return map[string]string{
		"a repeated close_code":             `{` + fill(`"close_code":1,`) + `"close_code":1}`,
		"a repeated close_code in capitals": `{` + fill(`"CLOSE_CODE":1,`) + `"close_code":1}`,
		"a repeated conn_id":                `{` + fill(`"conn_id":"",`) + `"conn_id":""}`,
		"a repeated conn_id with escapes":   `{` + fill(`"conn_id":"\u0061",`) + `"conn_id":""}`,
		"a repeated frame":                  `{` + fill(`"frame":1,`) + `"frame":1}`,
		"a repeated push_wake":              `{` + fill(`"push_wake":{},`) + `"push_wake":{}}`,
		"repeated tokens":                   `{"push_wake":{` + fill(`"token":"",`) + `"token":""}}`,
		"unknown fields":                    `{` + fill(`"":0,`) + `"":0}`,
		"keys with escapes":                 `{` + fill(`"\u0063\u006f\u006e\u006e\u005f\u0069\u0064":"",`) + `"":0}`,
		"one key with escapes":              `{"` + fill(`\u0063`) + `":0}`,
		"a conn_id with escapes":            `{"frame":1,"conn_id":"` + fill(`\u0063`) + `"}`,
		"half surrogate pairs":              `{"frame":1,"conn_id":"` + fill(`\ud800`) + `"}`,
		"a token with escapes":              `{"push_wake":{"token":"` + fill(`\n`) + `"}}`,
		"fields of the wrong type":          `{` + fill(`"close_code":"",`) + `"close_code":1}`,
		"a long number":                     `{"close_code":` + fill(`9`) + `}`,
		"a long fraction":                   frame(`0.` + fill(`9`)),
		"white space":                       `{` + fill(" \t\r\n") + `"conn_id"` + fill(" ") + `:"","frame":1}`,
		"numbers":                           frame(list(`1`)),
		"empty lists":                       frame(list(`[]`)),
		"empty strings":                     frame(list(`""`)),
		"words":                             frame(list(`null`)),
		"empty objects":                     frame(list(`{}`)),
		"objects":                           frame(list(`{"":""}`)),
		"escapes":                           frame(`"` + fill(`\n`) + `"`),
		"escapes of escapes":                frame(`"` + fill(`a\\`) + `"`),
		"runes of two bytes":                frame(`"` + fill(`é`) + `"`),
		"runes between letters":             frame(`"` + fill(`éa`) + `"`),
		"deep lists":                        frame(nested("[", "", "]", deep)),
		"deep objects":                      frame(nested(`{"":`, "1", "}", deep)),
		"lists just too deep for a word":    frame(list(nested("[", "", "]", 65))),
		"lists too deep":                    frame(fill("[")),
		"text":                              frame(`"` + fill(`x`) + `"`),
		"text that is not UTF-8":            frame(`"` + fill(`x`) + "\xff" + `"`),
		"text without its end":              frame(`"` + fill(`x`)),
		"objects without their end":         frame(fill(`{"":[1,"a",null,`)),
		"no envelope at all":                fill("\xff"),
	}
}

func TestHostileEnvelopesAreParsedLikeOthers(t *testing.T) {
	for name, text := range hostile(60 << 10) {
		t.Run(name, func(t *testing.T) { agreesWithOracle(t, []byte(text)) })
	}
}

// best returns the shortest of several times that f takes.
func best(f func()) time.Duration {
	least := time.Hour
	for range 15 {
		begun := time.Now()
		f()
		least = min(least, time.Since(begun))
	}
	return least
}

// ParseEnvelope needs at most twice the time per byte that json.Valid, which decodes nothing,
// needs for a list of numbers. Therefore no kind of envelope is an attack. Decoding with
// encoding/json takes up to 100 times as long.
func TestAByteOfAHostileEnvelopeHasABoundedCost(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector slows one of the two down")
	}
	plain := []byte(`{"conn_id":"c-0123456789abcdef","frame":[` + strings.Repeat(`1,`, 30<<10) + `1]}`)
	bound := 2 * best(func() { json.Valid(plain) })
	for name, text := range hostile(60 << 10) {
		t.Run(name, func(t *testing.T) {
			b := []byte(text)
			for try := 0; ; try++ {
				took := best(func() { _, _ = ParseEnvelope(b) })
				perByte := float64(took) / float64(len(b))
				t.Logf("%.2f ns a byte, %.0f %% of the bound", perByte, 100*perByte*float64(len(plain))/float64(bound))
				if perByte <= float64(bound)/float64(len(plain)) {
					return
				}
				if try == 3 {
					t.Fatalf("%v for %d bytes; want no more a byte than %v for %d", took, len(b), bound, len(plain))
				}
			}
		})
	}
}

func TestHostileEnvelopesAllocateNothingThatGrows(t *testing.T) {
	for name, text := range hostile(60 << 10) {
		b := []byte(text)
		want := 0.0
		switch name {
		case "a conn_id with escapes", "half surrogate pairs":
			want = 1 // the conn_id
		case "a token with escapes":
			want = 4 // the wake, and the token twice
		case "a repeated push_wake", "repeated tokens":
			want = 1 // the wake
		}
		if got := testing.AllocsPerRun(10, func() { _, _ = ParseEnvelope(b) }); got > want {
			t.Errorf("%s: %v allocations; want at most %v", name, got, want)
		}
	}
}
