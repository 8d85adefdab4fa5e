package wire

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Printable returns a text for s that is safe to log. It replaces unprintable characters
// (see [strconv.IsPrint]: control characters, line breaks, bidirectional overrides and
// others) and bytes that are not UTF-8 by Go escapes such as \n, \u202e or \xff. It cuts
// the result to at most max bytes, at the end of a rune or an escape. It does not escape a
// backslash in s, so that it does not change a printable text.
//
// If s is printable and short enough, Printable returns s itself. Any other result shares
// no memory with s, so that it does not keep a long s in memory.
func Printable(s string, max int) string {
	clean := 0 // s[:clean] needs no escape and fits
	for clean < len(s) {
		r, n := utf8.DecodeRuneInString(s[clean:])
		if clean+n > max {
			return strings.Clone(s[:clean])
		}
		if r == utf8.RuneError && n == 1 || !strconv.IsPrint(r) {
			return escape(s, clean, max)
		}
		clean += n
	}
	return s
}

// escape is Printable for a text with its first escape for the character at s[clean].
func escape(s string, clean, max int) string {
	var room [12]byte // the longest piece is \U0010ffff
	out := make([]byte, clean, min(max, len(s)+32))
	copy(out, s)
	for i := clean; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		piece := room[:0]
		switch {
		case r == utf8.RuneError && n == 1:
			const hex = "0123456789abcdef"
			piece = append(piece, '\\', 'x', hex[s[i]>>4], hex[s[i]&0xf])
		case strconv.IsPrint(r):
			piece = append(piece, s[i:i+n]...)
		default:
			piece = strconv.AppendQuoteRune(piece, r)
			piece = piece[1 : len(piece)-1] // without the quotes
		}
		if len(out)+len(piece) > max {
			break
		}
		out = append(out, piece...)
		i += n
	}
	return string(out)
}
