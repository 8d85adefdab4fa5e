package wire

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// validByStd is ValidFrame written with the standard library: b is valid alone and in its
// envelope.
func validByStd(b []byte) bool {
	return utf8.Valid(b) && json.Valid(b) && json.Valid(wrapped(b))
}

// wrapped returns the envelope of a frame.
func wrapped(frame []byte) []byte {
	b := AppendEnvelopePrefix(nil, "c-0123456789abcdef")
	return append(append(b, frame...), EnvelopeSuffix...)
}

func sameAsStd(t rapid.TB, b []byte) {
	if got, want := ValidFrame(b), validByStd(b); got != want {
		t.Helper()
		t.Fatalf("ValidFrame(%.200q) = %v; want %v", b, got, want)
	}
}

func nested(open, inner, end string, depth int) string {
	return strings.Repeat(open, depth) + inner + strings.Repeat(end, depth)
}

func TestValidFrame(t *testing.T) {
	for _, tt := range []struct {
		name  string
		frame string
		want  bool
	}{
		{"a frame as clients send it", `{"v":2,"type":"noise_msg","data":"` + strings.Repeat("QUJD", 100) + `"}`, true},
		{"a frame need not be an object", ` [1, "a", null] `, true},
		{"nothing is no frame", ``, false},
		{"white space is no frame", " \t\r\n", false},
		{"two values are no frame", `{} {}`, false},
		{"a comma before the end", `[1,]`, false},
		{"a comma at the start", `{,"a":1}`, false},
		{"a bracket of the other kind", `{"a":1]`, false},
		{"a brace of the other kind", `[1}`, false},
		{"an object inside a list ends as an object", `[{"a":[]}]`, true},
		{"a list goes on after an object in it", `[{"a":1},"b"]`, true},
		{"an object goes on after a list in it", `{"a":["b"],"c":1}`, true},
		{"a key is a string", `{1:2}`, false},
		{"a leading zero", `01`, false},
		{"minus alone", `-`, false},
		{"a fraction without digits", `1.`, false},
		{"an exponent with sign", `1E+2`, true},
		{"an exponent without digits", `1e+`, false},
		{"half a word", `tru`, false},
		{"a word and more", `nulll`, false},
		{"a tab inside a string", "\"a\tb\"", false},
		{"DEL inside a string", "\"\x7f\"", true},
		{"an unknown escape", `"\q"`, false},
		{"an escape cut off", `"\u12`, false},
		{"an escape with a digit that is none", `"\u12g4"`, false},
		{"a lone surrogate, escaped", `"\ud800"`, true},
		{"a lone surrogate, raw", "\"\xed\xa0\x80\"", false},
		{"text that is not Latin", `"кириллица 漢字 🙂"`, true},
		{"a rune cut by the end of its string", "\"\xe6\xbc\"", false},
		{"an overlong form", "\"\xc0\x80\"", false},
		{"a byte order mark", "\xef\xbb\xbf{}", false},
		{"64 deep", nested("[", "1", "]", 64), true},
		{"65 deep", nested("[", "1", "]", 65), true},
		{"65 deep and bad UTF-8", nested("[", "\"\xff\"", "]", 65), false},
		{"objects 64 deep", nested(`{"a":`, "1", "}", 64), true},
		{"objects 65 deep", nested(`{"a":`, "1", "}", 65), true},
		{"lists 64 deep in an object that goes on", `{"a":` + nested("[", "1", "]", 64) + `,"b":2}`, true},
		{"as deep as encoding/json goes with an envelope", nested("[", "1", "]", 9999), true},
		{"as deep as encoding/json goes without one", nested("[", "1", "]", 10000), false},
		{"deeper than encoding/json goes", nested("[", "1", "]", 10001), false},
		{"objects as deep as may be", nested(`{"a":`, "1", "}", 9999), true},
		{"objects one level too deep", nested(`{"a":`, "1", "}", 10000), false},
		{"brackets in strings and keys are no levels", nested(`{"[{\"[":`, `"[[[{{{\\"`, "}", 9999), true},
		{"two deep lists, one after the other", "[" + nested("[", "1", "]", 9998) + "," + nested("[", "", "]", 9998) + "]", true},
		{"the second of two lists is too deep", "[" + nested("[", "1", "]", 9998) + "," + nested("[", "", "]", 9999) + "]", false},
		{"a hundred empty lists side by side", "[" + strings.Repeat("[],", 99) + "[]]", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := ValidFrame([]byte(tt.frame)); got != tt.want {
				t.Errorf("ValidFrame(%.100q) = %v; want %v", tt.frame, got, tt.want)
			}
			sameAsStd(t, []byte(tt.frame))
		})
	}
}

// Every text of up to five bytes that have a meaning in JSON.
func TestValidFrameOnAllShortTexts(t *testing.T) {
	const alphabet = "{}[],:\"\\0-.eu1 \xc3\xa9"
	var try func(prefix []byte, more int)
	try = func(prefix []byte, more int) {
		sameAsStd(t, prefix)
		for i := 0; i < len(alphabet) && more > 0; i++ {
			try(append(prefix, alphabet[i]), more-1)
		}
	}
	try(make([]byte, 0, 8), 5)
}

// Every byte at every place of the words in which strings are scanned.
func TestValidFrameWithAnyByteAnywhere(t *testing.T) {
	for _, length := range []int{1, 7, 8, 9, 15, 16, 17, 39, 40, 41, 48, 75} {
		for at := range length {
			text := []byte(`"` + strings.Repeat("a", length) + `"`)
			for c := range 256 {
				text[1+at] = byte(c)
				sameAsStd(t, text)
			}
			// A borrow may mark the byte after a special one. It must not count.
			for c := range 256 {
				text[1+at], text[min(2+at, length)] = byte(c), byte(c^1)
				sameAsStd(t, text)
			}
		}
	}
}

// Valid JSON with one byte changed, because scanners fail at texts that are almost valid.
func TestValidFrameNearMisses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, err := json.Marshal(anyJSON(t, 4))
		if err != nil {
			t.Fatal(err)
		}
		sameAsStd(t, b)
		if !ValidFrame(b) {
			t.Fatalf("ValidFrame(%q) = false; want true", b)
		}
		at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		b[at] = rapid.OneOf(rapid.Byte(), rapid.SampledFrom([]byte(`{}[],:"\0-.etfn `))).Draw(t, "byte")
		sameAsStd(t, b)
		sameAsStd(t, b[:at])
	})
}

// anyJSON draws a value that json.Marshal accepts.
func anyJSON(t *rapid.T, depth int) any {
	kinds := 5
	if depth > 0 {
		kinds = 7
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
	case 0:
		return nil
	case 1:
		return rapid.Bool().Draw(t, "bool")
	case 2:
		return rapid.Float64().Draw(t, "number")
	case 3:
		return rapid.Int64().Draw(t, "integer")
	case 4:
		return rapid.String().Draw(t, "string")
	case 5:
		list := make([]any, rapid.IntRange(0, 4).Draw(t, "items"))
		for i := range list {
			list[i] = anyJSON(t, depth-1)
		}
		return list
	default:
		object := map[string]any{}
		for range rapid.IntRange(0, 4).Draw(t, "fields") {
			object[rapid.String().Draw(t, "key")] = anyJSON(t, depth-1)
		}
		return object
	}
}

func FuzzValidFrame(f *testing.F) {
	for _, s := range []string{
		`{"v":2,"type":"noise_init","data":"QUJDREVGRw=="}`,
		`{"v":2,"type":"noise_msg","data":"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo0NTY3ODk"}`,
		` [ 1 , -0.5e+10 , true , false , null , "" , {} , [ ] ] `,
		`"\"\\\/\b\f\n\r\tሴ\ud800"`, "\"漢字🙂\xed\xa0\x80\"", "\"\x1f\"", "\xff",
		`{"a":{"b":[{"c":[[]]}]},"d":1}`, `[1}`, `{"a":1]`, `01`, `1.`, `-`, `nul`, ``,
		nested("[", "", "]", 64), nested("[", "", "]", 65), nested(`{"a":`, `"\xff"`, "}", 70),
		nested("[", "", "]", 9999), nested("[", "", "]", 10000), nested("[", "", "]", 10001),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) { sameAsStd(t, b) })
}
