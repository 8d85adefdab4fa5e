package wire

import (
	"bytes"
	"math"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// longestKey is more than the bytes of the longest key that [keyIn] is asked
// for, in its quotes and with each character escaped.
const longestKey = 2 + 6*len("close_code")

// keyIn returns which of names a key, a valid string literal, is to
// encoding/json: without regard to case and escapes. It is -1 for none of them.
// The names are ASCII, and have from 5 to 10 characters.
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

// text is the text of a valid string literal, cut at [MaxText] bytes; empty for nil.
func text(literal []byte) string {
	switch {
	case literal == nil:
		return ""
	case bytes.IndexByte(literal, '\\') < 0:
		return string(literal[1:min(len(literal)-1, 1+MaxText)])
	}
	return string(unquote(nil, literal))
}

// unquote appends the text of a valid string literal to dst, cut at [MaxText]
// bytes. A nil dst becomes one with room for all of it: the text is never longer
// than the literal. As with encoding/json, half of a surrogate pair is U+FFFD.
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

// hex4 is the number that the four hexadecimal digits at the start of s mean.
func hex4(s []byte) (r rune) {
	for _, c := range s[:4] {
		if c >= 'A' {
			c = c&^0x20 - 'A' + 10
		}
		r = r<<4 | rune(c&0x0f)
	}
	return r
}

// integer is the number that a valid JSON value is, if it is an integer that an
// int can hold. It passes over the value once, however long that is.
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
		n = 10*n - d // below zero: there is one number more
	}
	if len(digits) == len(value) {
		return -n, n != math.MinInt
	}
	return n, true
}
