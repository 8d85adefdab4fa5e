package wire

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestAppendClose(t *testing.T) {
	for _, tt := range []struct {
		name   string
		code   CloseCode
		reason string
		want   string
	}{
		{"a code and its reason", CloseNoServer, ReasonNoServer, "\x88\x18\x11\x34no server with that id"},
		{"a code alone", CloseNormal, "", "\x88\x02\x03\xe8"},
		{"no code is an empty payload", CloseNone, "", "\x88\x00"},
		{"without a code there is no reason", CloseNone, "x", "\x88\x00"},
		{"1006 must not be sent", 1006, "x", "\x88\x03\x03\xf3x"},
		{"nor must 7", 7, "", "\x88\x02\x03\xf3"},
		{"a reason of 123 bytes is whole", CloseNormal, strings.Repeat("x", 123), "\x88\x7d\x03\xe8" + strings.Repeat("x", 123)},
		{"a reason of 124 bytes is cut", CloseNormal, strings.Repeat("x", 124), "\x88\x7d\x03\xe8" + strings.Repeat("x", 123)},
		{"not inside a rune", CloseNormal, strings.Repeat("x", 122) + "é", "\x88\x7c\x03\xe8" + strings.Repeat("x", 122)},
		{"a reason ends before bad UTF-8", CloseNormal, "ab\xffcd", "\x88\x04\x03\xe8ab"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(AppendClose([]byte("^"), tt.code, tt.reason)); got != "^"+tt.want {
				t.Errorf("AppendClose(%d, %q) = %q; want %q", tt.code, tt.reason, got, "^"+tt.want)
			}
		})
	}
}

func TestParseClose(t *testing.T) {
	for _, tt := range []struct {
		name    string
		payload string
		code    CloseCode
		reason  string
		err     error
	}{
		{"nothing is no code", "", CloseNone, "", nil},
		{"a code alone", "\x03\xe8", CloseNormal, "", nil},
		{"a code and a reason", "\x11\x34gône", CloseNoServer, "gône", nil},
		{"half a code", "\x03", CloseNone, "", errCloseShort},
		{"1005 is not for the wire", "\x03\xed", CloseNone, "", errCloseCode},
		{"nor is 0", "\x00\x00", CloseNone, "", errCloseCode},
		{"bad UTF-8 in the reason", "\x03\xe8\xed\xa0\x80", CloseNone, "", errCloseReason},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, reason, err := ParseClose([]byte(tt.payload))
			if code != tt.code || reason != tt.reason || err != tt.err {
				t.Errorf("ParseClose(%q) = %d, %q, %v; want %d, %q, %v", tt.payload, code, reason, err, tt.code, tt.reason, tt.err)
			}
		})
	}
}

func TestProtocolErrorSaysTheCodeAndTheReason(t *testing.T) {
	if got, want := errRsv.Error(), "close 1002: reserved bits set"; got != want {
		t.Errorf("Error() = %q; want %q", got, want)
	}
}

// An error has a code that may be sent. A payload that is accepted can be sent and parsed
// again.
func FuzzParseClose(f *testing.F) {
	for _, s := range []string{
		"", "\x03", "\x03\xe8", "\x03\xe8bye", "\x03\xec", "\x03\xed", "\x03\xee", "\x03\xf6", "\x03\xf7", "\x0b\xb8", "\x13\x88",
		"\x11\x34no server with that id", "\x03\xe8\xff", "\x03\xe8\xe6\xbc", "\x03\xe8" + strings.Repeat("é", 61), "\xff\xff",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) > 125 {
			return // the assembler returns no such payload
		}
		before := bytes.Clone(payload)
		code, reason, err := ParseClose(payload)
		if !bytes.Equal(payload, before) {
			t.Fatalf("ParseClose changed its input %q to %q", before, payload)
		}
		if err != nil {
			pe, ok := errors.AsType[*ProtocolError](err)
			if !ok || !pe.Code.Legal() || code != CloseNone || reason != "" {
				t.Fatalf("ParseClose(%q) = %d, %q, %v; want nothing and a ProtocolError with a legal code", payload, code, reason, err)
			}
			return
		}
		if code != CloseNone && !code.Legal() || !utf8.ValidString(reason) {
			t.Fatalf("ParseClose(%q) = %d, %q: let through", payload, code, reason)
		}
		if got := AppendClose(nil, code, reason); !bytes.Equal(got[2:], payload) {
			t.Fatalf("ParseClose(%q), sent again, is %q", payload, got[2:])
		}
	})
}
