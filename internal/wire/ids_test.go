package wire

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestNewConnID(t *testing.T) {
	r := strings.NewReader("\x01\x23\x45\x67\x89\xab\xcd\xef\x00\x00\x00\x00\x00\x00\x00\x00\x01")
	for _, want := range []ConnID{"c-0123456789abcdef", "c-0000000000000000"} {
		if got, err := NewConnID(iotest.OneByteReader(r)); got != want || err != nil {
			t.Errorf("NewConnID = %q, %v; want %q", got, err, want)
		}
	}
	if got, err := NewConnID(r); got != "" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("NewConnID of one byte = %q, %v; want no id and %v", got, err, io.ErrUnexpectedEOF)
	}
}
