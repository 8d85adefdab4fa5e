package wire

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// MaxNesting is how deep a frame may nest. An envelope is one level deeper
// than its frame, and encoding/json, with which daemons read envelopes, refuses
// what nests more than 10,000 deep.
const MaxNesting = 9_999

// ValidFrame reports whether b is one JSON text in valid UTF-8 that nests at
// most [MaxNesting] deep. For such a b json.Valid and utf8.Valid report true,
// and json.Valid still does once b is in its envelope. Both halves are needed:
// encoding/json accepts bad UTF-8 inside a string, and a strict peer closes on
// it. ValidFrame takes one pass and does not allocate.
func ValidFrame(b []byte) bool {
	end := scanValue(b, 0)
	return end >= 0 && skipSpace(b, end) == len(b)
}

// malformed is the result of scanValue and its parts where there is no end.
const malformed = -1

// wordDepth is how many levels of nesting one word holds: one bit per level.
const wordDepth = 64

// scanValue finds the end of the JSON value that begins at b[i], white space
// before it allowed. What follows the value is not looked at. The value may nest
// [MaxNesting] deep.
func scanValue(b []byte, i int) int { return scanNested(b, i, MaxNesting) }

// scanNested is scanValue for a value that may nest so deep. It calls itself for
// what nests deeper than a word holds.
func scanNested(b []byte, i, deepest int) int {
	var objects uint64 // one bit per open container, innermost lowest: 1 for an object
	depth := 0
	for {
		if objects&1 != 0 {
			if i = scanKey(b, i); i < 0 {
				return i
			}
		}
		i = skipSpace(b, i)
		if i >= len(b) {
			return malformed
		}
		switch c := b[i]; c {
		case '"':
			i = scanString(b, i+1)
		case '{', '[':
			if depth == wordDepth {
				i = scanNested(b, i, deepest-wordDepth)
				break
			}
			if depth == deepest {
				return malformed
			}
			depth++
			objects <<= 1
			if c == '{' {
				objects |= 1
			}
			i = skipSpace(b, i+1)
			if i >= len(b) || b[i] != c+2 { // '{'+2 is '}', '['+2 is ']'
				continue
			}
			// Empty: the loop below closes it.
		case 't':
			i = scanWord(b, i, "true")
		case 'f':
			i = scanWord(b, i, "false")
		case 'n':
			i = scanWord(b, i, "null")
		default:
			i = scanNumber(b, i)
		}
		if i < 0 {
			return i
		}

		// A value has ended at i; close every container that ends with it.
		for {
			if depth == 0 {
				return i
			}
			i = skipSpace(b, i)
			if i >= len(b) {
				return malformed
			}
			c := b[i]
			i++
			if c == ',' {
				break
			}
			if c != ']'+byte(objects&1)*('}'-']') {
				return malformed
			}
			objects >>= 1
			depth--
		}
	}
}

// scanKey passes over an object's key and its colon.
func scanKey(b []byte, i int) int {
	i = skipSpace(b, i)
	if i >= len(b) || b[i] != '"' {
		return malformed
	}
	if i = scanString(b, i+1); i < 0 {
		return i
	}
	i = skipSpace(b, i)
	if i >= len(b) || b[i] != ':' {
		return malformed
	}
	return i + 1
}

// scanField passes over an object's key, its colon and white space. It returns
// the key, with its quotes, and the index of what follows; malformed if there
// is no key and colon.
func scanField(b []byte, i int) (key []byte, v int) {
	if i >= len(b) || b[i] != '"' {
		return nil, malformed
	}
	end := scanString(b, i+1)
	if end < 0 {
		return nil, malformed
	}
	if v = skipSpace(b, end); v >= len(b) || b[v] != ':' {
		return nil, malformed
	}
	return b[i:end], skipSpace(b, v+1)
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && b[i] <= ' ' && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

func scanWord(b []byte, i int, word string) int {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return malformed
	}
	return i + len(word)
}

func scanNumber(b []byte, i int) int {
	if i < len(b) && b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = scanDigits(b, i); i < 0 {
		return malformed
	}
	if i < len(b) && b[i] == '.' {
		if i = scanDigits(b, i+1); i < 0 {
			return malformed
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return scanDigits(b, i)
	}
	return i
}

// scanDigits passes over one decimal digit or more.
func scanDigits(b []byte, i int) int {
	start := i
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	if i == start {
		return malformed
	}
	return i
}

// scanString passes over the rest of a string, b[i] being the byte after its
// opening quote, and checks its escapes and its UTF-8.
func scanString(b []byte, i int) int {
	for {
		i = scanPlain(b, i)
		if i >= len(b) {
			return malformed
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			for i < len(b) && b[i] == '\\' {
				if i = scanEscape(b, i+1); i < 0 {
					return malformed
				}
			}
		case c < utf8.RuneSelf: // a control character
			return malformed
		default:
			// Text that is not Latin comes in runs.
			for i < len(b) && b[i] >= utf8.RuneSelf {
				r, n := utf8.DecodeRune(b[i:])
				if r == utf8.RuneError && n == 1 {
					return malformed
				}
				i += n
			}
		}
	}
}

// scanEscape passes over what follows a backslash.
func scanEscape(b []byte, i int) int {
	if i >= len(b) {
		return malformed
	}
	switch b[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		// Lone surrogates are no error to encoding/json.
		if len(b)-i < 5 {
			return malformed
		}
		for _, c := range b[i+1 : i+5] {
			if c-'0' > 9 && c|0x20-'a' > 5 {
				return malformed
			}
		}
		return i + 5
	}
	return malformed
}

// A byte repeated through a word.
const (
	eachByte = 0x0101010101010101
	highBits = 0x80 * eachByte
)

// special has a high bit set for each byte of w that ends a run of plain bytes:
// a quote, a backslash, a control character or a byte of a longer rune. Quotes
// and control characters share one comparison: c^2 < 0x21 holds for just these.
// A subtraction that goes below zero borrows from the byte above, so marks above
// the lowest may be wrong; the lowest is exact, which is all that is asked.
func special(w uint64) uint64 {
	return w | ((w ^ 0x02*eachByte) - 0x21*eachByte) | ((w ^ '\\'*eachByte) - eachByte)
}

// scanPlain is the index of the first special byte from b[i] on, len(b) if none.
func scanPlain(b []byte, i int) int {
	// The first word by itself: most strings are short, most bytes in long ones.
	if len(b)-i >= 8 {
		if w := special(binary.LittleEndian.Uint64(b[i:])) & highBits; w != 0 {
			return i + bits.TrailingZeros64(w)>>3
		}
		i += 8
	}
	for len(b)-i >= 32 {
		p := (*[32]byte)(b[i:])
		w := special(binary.LittleEndian.Uint64(p[:])) |
			special(binary.LittleEndian.Uint64(p[8:])) |
			special(binary.LittleEndian.Uint64(p[16:])) |
			special(binary.LittleEndian.Uint64(p[24:]))
		if w&highBits != 0 {
			break
		}
		i += 32
	}
	for len(b)-i >= 8 {
		if w := special(binary.LittleEndian.Uint64(b[i:])) & highBits; w != 0 {
			return i + bits.TrailingZeros64(w)>>3
		}
		i += 8
	}
	for i < len(b) && plain[b[i]] {
		i++
	}
	return i
}

var plain = func() (t [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()
