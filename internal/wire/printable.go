package wire

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Printable makes s safe to log: what would not print ([strconv.IsPrint]:
// control characters, line breaks, bidirectional overrides and the like) and
// bytes that are not UTF-8 become Go escapes such as \n, \u202e or \xff, and the
// result is cut at max bytes, never inside a rune or an escape. A backslash of
// s stays as it is, so that Printable of a printable text changes nothing.
//
// A text that is clean and short enough is returned itself; any other result
// shares no memory with s, which may be a great deal longer.
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

// escape is Printable from s[clean:] on, where the first escape is needed.
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
