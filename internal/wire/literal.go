package wire

import (
	"bytes"
	"math"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// longestKey is the maximum length in bytes of a literal for a key of [keyIn], with its
// quotes and with each character escaped.
const longestKey = 2 + 6*len("close_code")

// keyIn returns the index in names of a key, or -1 if the key is none of them. The key is a
// valid string literal. Like encoding/json, keyIn ignores case and escapes. The names must
// be ASCII and have 5 to 10 characters.
func keyIn(literal []byte, names ...string) int {
	if len(literal) > longestKey || len(literal) < 2+5 {
		return -1
	}
	key := literal[1 : len(literal)-1]
	if bytes.IndexByte(key, '\\') >= 0 {
		var room [longestKey]byte
		key = unquote(room[:0], literal)
	}
	for i, name := range names {
		if bytes.EqualFold(key, []byte(name)) {
			return i
		}
	}
	return -1
}

// text returns the text of a valid string literal, cut to [MaxText] bytes. For nil it
// returns "".
func text(literal []byte) string {
	switch {
	case literal == nil:
		return ""
	case bytes.IndexByte(literal, '\\') < 0:
		return string(literal[1:min(len(literal)-1, 1+MaxText)])
	}
	return string(unquote(nil, literal))
}

// unquote appends the text of a valid string literal to dst, cut to [MaxText] bytes. If dst
// is nil, unquote allocates once: the text is never longer than the literal. Like
// encoding/json, it replaces half of a surrogate pair by U+FFFD.
func unquote(dst, literal []byte) []byte {
	s := literal[1 : len(literal)-1]
	if dst == nil {
		dst = make([]byte, 0, min(len(s), MaxText+utf8.UTFMax))
	}
	for {
		plain := 0
		for plain < len(s) && s[plain] != '\\' {
			plain++
		}
		dst = append(dst, s[:min(plain, MaxText)]...)
		if plain == len(s) || len(dst) >= MaxText {
			return dst[:min(len(dst), MaxText)]
		}
		c := s[plain+1]
		s = s[plain+2:]
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			r := hex4(s)
			s = s[4:]
			if utf16.IsSurrogate(r) {
				low := rune(-1)
				if len(s) >= 6 && s[0] == '\\' && s[1] == 'u' {
					low = hex4(s[2:])
				}
				if r = utf16.DecodeRune(r, low); r != unicode.ReplacementChar {
					s = s[6:]
				}
			}
			dst = utf8.AppendRune(dst, r)
			continue
		}
		dst = append(dst, c)
	}
}

// hex4 returns the number of the four hexadecimal digits at the start of s.
func hex4(s []byte) (r rune) {
	for _, c := range s[:4] {
		if c >= 'A' {
			c = c&^0x20 - 'A' + 10
		}
		r = r<<4 | rune(c&0x0f)
	}
	return r
}

// integer returns the number of a valid JSON value, if it is an integer that an int can
// hold. It reads a value of any length at most once.
func integer(value []byte) (n int, ok bool) {
	digits := value
	if value[0] == '-' {
		digits = value[1:]
	}
	for _, c := range digits {
		d := int(c - '0')
		if c-'0' > 9 || n < (math.MinInt+d)/10 {
			return 0, false
		}
		n = 10*n - d // negative, because the range below zero has one number more
	}
	if len(digits) == len(value) {
		return -n, n != math.MinInt
	}
	return n, true
}
