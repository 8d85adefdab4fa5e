package wire

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"

	"github.com/pyrycode/pyrycode-relay/internal/sched"
)

// MaxNesting is the maximum depth of a frame. An envelope is one level deeper than its
// frame. Daemons read envelopes with encoding/json, which refuses a depth of more than
// 10,000.
const MaxNesting = 9_999

// ValidFrame reports whether b is one JSON text in valid UTF-8 with a depth of at most
// [MaxNesting]. For such a b json.Valid and utf8.Valid are true, and json.Valid is also
// true for b in its envelope. Both checks are needed: encoding/json accepts invalid UTF-8
// in a string, and a strict peer closes the connection because of it. ValidFrame reads b
// once and does not allocate.
func ValidFrame(b []byte) bool {
	end := scanValue(b, 0)
	return end >= 0 && skipSpace(b, end) == len(b)
}

// malformed is the result of scanValue and of its parts if b is not valid.
const malformed = -1

// yieldEvery is after how many bytes of a long text its scan lets other goroutines run.
// A message of 4 MiB can take 50 ms, for which frames of other connections must not wait.
const yieldEvery = 32 << 10

// yielder is the index of a text at which the next yield is due.
type yielder int

func yieldFrom(i int) yielder { return yielder(i + yieldEvery) }

// at is called with the index that the scan has reached.
func (y *yielder) at(i int) {
	if i >= int(*y) {
		*y = yieldFrom(i)
		sched.Yield()
	}
}

// validUTF8 is utf8.Valid, with yields.
func validUTF8(b []byte) bool {
	for len(b) > yieldEvery {
		end := yieldEvery
		for end > yieldEvery-utf8.UTFMax && !utf8.RuneStart(b[end]) {
			end--
		}
		if !utf8.Valid(b[:end]) {
			return false
		}
		b = b[end:]
		sched.Yield()
	}
	return utf8.Valid(b)
}

// wordDepth is the number of levels that one word holds, one bit per level.
const wordDepth = 64

// scanValue returns the index after the JSON value at b[i], or malformed. White space may
// precede the value. The bytes after it may be anything. The value may have a depth of
// [MaxNesting].
func scanValue(b []byte, i int) int { return scanNested(b, i, MaxNesting) }

// scanNested is scanValue with the maximum depth deepest. It calls itself for each further
// word of levels.
func scanNested(b []byte, i, deepest int) int {
	var objects uint64 // one bit per open container, the innermost lowest; 1: an object
	depth := 0
	y := yieldFrom(i)
	for {
		y.at(i)
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
			// The container is empty. The loop below closes it.
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

// scanKey returns the index after an object's key and its colon, or malformed.
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

// scanField returns an object's key with its quotes, and the index of its value. The index
// is malformed if b has no key and colon at i.
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

// scanDigits returns the index after one or more decimal digits, or malformed.
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

// scanString returns the index after a string, or malformed. b[i] is the byte after the
// opening quote. scanString checks the escapes and the UTF-8.
func scanString(b []byte, i int) int {
	if len(b)-i >= 8 { // most strings are short
		if w := special(binary.LittleEndian.Uint64(b[i:])) & highBits; w != 0 {
			if i += bits.TrailingZeros64(w) >> 3; b[i] == '"' {
				return i + 1
			}
		} else {
			i += 8
		}
	}
	return scanLongString(b, i)
}

// scanLongString is scanString for a string that its first word does not end.
func scanLongString(b []byte, i int) int {
	y := yieldFrom(i)
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
				y.at(i)
				if i = scanEscape(b, i+1); i < 0 {
					return malformed
				}
			}
		case c < utf8.RuneSelf: // a control character
			return malformed
		default:
			// Characters that are not ASCII usually follow each other.
			for i < len(b) && b[i] >= utf8.RuneSelf {
				y.at(i)
				r, n := utf8.DecodeRune(b[i:])
				if r == utf8.RuneError && n == 1 {
					return malformed
				}
				i += n
			}
		}
	}
}

// scanEscape returns the index after an escape, or malformed. b[i] is the byte after the
// backslash.
func scanEscape(b []byte, i int) int {
	if i >= len(b) {
		return malformed
	}
	switch b[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		// Like encoding/json, scanEscape accepts half of a surrogate pair.
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

// Words in which each byte has the same value.
const (
	eachByte = 0x0101010101010101
	highBits = 0x80 * eachByte
)

// special sets the high bit of each byte of w that is special: a quote, a backslash, a
// control character, or a byte of a longer rune. One comparison finds quotes and control
// characters, because c^2 < 0x21 is true exactly for these. A subtraction below zero
// borrows from the byte above. Therefore only the lowest high bit in the result is
// reliable, and callers use no other.
func special(w uint64) uint64 {
	return w | ((w ^ 0x02*eachByte) - 0x21*eachByte) | ((w ^ '\\'*eachByte) - eachByte)
}

// scanPlain returns the index of the first special byte at b[i] or later, or len(b).
func scanPlain(b []byte, i int) int {
	if len(b)-i >= 16 && hasWide {
		return scanWide(b, i)
	}
	for len(b)-i >= 32 { // most bytes are in long strings, for which this loop is fastest
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
