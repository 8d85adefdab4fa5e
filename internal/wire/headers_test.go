package wire

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// headers returns an http.Header of names and values in turns, as net/http parses it.
func headers(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func TestParseBinaryHello(t *testing.T) {
	id := strings.Repeat("s", 256)
	for _, tt := range []struct {
		name string
		h    http.Header
		want BinaryHello
		err  string
	}{
		{"all that is needed", headers("x-pyrycode-server", "s1", "x-pyrycode-version", "0.9.1", "user-agent", "pyry"), BinaryHello{Server: "s1", Version: "0.9.1"}, ""},
		{"names in other case", headers("X-PYRYCODE-SERVER", "s1", "X-Pyrycode-Version", "0.9.1", "User-Agent", "pyry"), BinaryHello{Server: "s1", Version: "0.9.1"}, ""},
		{"a server-id of 256 bytes", headers("x-pyrycode-server", id, "x-pyrycode-version", "1", "user-agent", "pyry"), BinaryHello{Server: ServerID(id), Version: "1"}, ""},
		{"a server-id of 257 bytes", headers("x-pyrycode-server", id+"s", "x-pyrycode-version", "1", "user-agent", "pyry"), BinaryHello{}, "header x-pyrycode-server: longer than 256 bytes"},
		{"a server-id is not changed, whatever it is", headers("x-pyrycode-server", "\xff %\\", "x-pyrycode-version", "1", "user-agent", "pyry"), BinaryHello{Server: "\xff %\\", Version: "1"}, ""},
		{"of a repeated header the first counts", headers("x-pyrycode-server", "s1", "x-pyrycode-server", "s2", "x-pyrycode-version", "1", "user-agent", "pyry"), BinaryHello{Server: "s1", Version: "1"}, ""},
		{"even if the first is empty", headers("x-pyrycode-server", "", "x-pyrycode-server", "s2", "x-pyrycode-version", "1", "user-agent", "pyry"), BinaryHello{}, "header x-pyrycode-server: missing or empty"},
		{"the version is made fit for the log", headers("x-pyrycode-server", "s1", "x-pyrycode-version", "1\x1b[31m"+strings.Repeat("v", 200), "user-agent", "pyry"), BinaryHello{Server: "s1", Version: `1\x1b[31m` + strings.Repeat("v", 119)}, ""},
		{"no server-id", headers("x-pyrycode-version", "1", "user-agent", "pyry"), BinaryHello{}, "header x-pyrycode-server: missing or empty"},
		{"an empty version", headers("x-pyrycode-server", "s1", "x-pyrycode-version", "", "user-agent", "pyry"), BinaryHello{}, "header x-pyrycode-version: missing or empty"},
		{"no user-agent", headers("x-pyrycode-server", "s1", "x-pyrycode-version", "1"), BinaryHello{}, "header user-agent: missing or empty"},
		{"no headers at all", nil, BinaryHello{}, "header x-pyrycode-server: missing or empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseBinaryHello(tt.h)
			if got != tt.want || errText(err) != tt.err {
				t.Errorf("ParseBinaryHello = %+v, %q; want %+v, %q", got, errText(err), tt.want, tt.err)
			}
		})
	}
}

func TestParsePhoneHello(t *testing.T) {
	for _, tt := range []struct {
		name string
		h    http.Header
		want PhoneHello
		err  string
	}{
		{"all that is needed", headers("x-pyrycode-server", "s1", "user-agent", "okhttp"), PhoneHello{"s1", ""}, ""},
		{"with a device name", headers("x-pyrycode-server", "s1", "user-agent", "okhttp", "x-pyrycode-device-name", "Näyttö 📱"), PhoneHello{"s1", "Näyttö 📱"}, ""},
		{"with a device name that would forge a log line", headers("x-pyrycode-server", "s1", "user-agent", "okhttp", "x-pyrycode-device-name", "x\nlevel=error"), PhoneHello{"s1", `x\nlevel=error`}, ""},
		{"a token is neither needed nor looked at", headers("x-pyrycode-server", "s1", "user-agent", "okhttp", "x-pyrycode-token", "\x00"), PhoneHello{"s1", ""}, ""},
		{"no server-id", headers("user-agent", "okhttp"), PhoneHello{}, "header x-pyrycode-server: missing or empty"},
		{"a server-id of 257 bytes", headers("user-agent", "okhttp", "x-pyrycode-server", strings.Repeat("s", 257)), PhoneHello{}, "header x-pyrycode-server: longer than 256 bytes"},
		{"an empty user-agent", headers("x-pyrycode-server", "s1", "user-agent", ""), PhoneHello{}, "header user-agent: missing or empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParsePhoneHello(tt.h)
			if got != tt.want || errText(err) != tt.err {
				t.Errorf("ParsePhoneHello = %+v, %q; want %+v, %q", got, errText(err), tt.want, tt.err)
			}
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestPrintable(t *testing.T) {
	for _, tt := range []struct {
		name string
		s    string
		max  int
		want string
	}{
		{"clean text stays", "Pixel 8 (\"work\") C:\\", 128, "Pixel 8 (\"work\") C:\\"},
		{"nothing stays nothing", "", 128, ""},
		{"text that is not Latin stays", "Пиксель 漢字 🙂", 128, "Пиксель 漢字 🙂"},
		{"control characters", "a\n\r\t\x00\x1b\x7fb", 128, `a\n\r\t\x00\x1b\x7fb`},
		{"control characters of the second set", "a\u0085b", 128, `a\u0085b`},
		{"a line separator and a text direction", "a\u2028\u202eb", 128, `a\u2028\u202eb`},
		{"bytes that are not UTF-8", "a\xff\xed\xa0b", 128, `a\xff\xed\xa0b`},
		{"a replacement character is text", "a\ufffdb", 128, "a\ufffdb"},
		{"exactly as long as may be", "abcd", 4, "abcd"},
		{"too long", "abcde", 4, "abcd"},
		{"not cut inside a rune", "abcé", 4, "abc"},
		{"not cut inside an escape", "abc\n", 4, "abc"},
		{"nothing after an escape that did not fit", "abc\x1bd", 5, "abc"},
		{"too long only through its escapes", "\n\n\n", 4, `\n\n`},
		{"a rune after an escape does not fit", "\né", 3, `\n`},
		{"no room at all", "a\n", 0, ""},
		{"no room for an escape", "\n", 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Printable(tt.s, tt.max); got != tt.want {
				t.Errorf("Printable(%q, %d) = %q; want %q", tt.s, tt.max, got, tt.want)
			}
		})
	}
}

func checkPrintable(t *testing.T, s string, max int) {
	got := Printable(s, max)
	if len(got) > max || !utf8.ValidString(got) {
		t.Fatalf("Printable(%q, %d) = %q: too long or not UTF-8", s, max, got)
	}
	for _, r := range got {
		if !strconv.IsPrint(r) {
			t.Fatalf("Printable(%q, %d) = %q, which has %U", s, max, got, r)
		}
	}
	if again := Printable(got, max); again != got {
		t.Fatalf("Printable(%q, %d) = %q, and again %q", s, max, got, again)
	}
}

func FuzzHeaders(f *testing.F) {
	f.Add("s1", "0.9.1", "pyry/1", "Pixel 8", "token", uint8(0xff))
	f.Add("", "", "", "", "", uint8(0xff))
	f.Add("s1", "v", "ua", "d", "", uint8(0))
	f.Add(strings.Repeat("s", 257), "\x00", "\xff", "a\r\nb", "", uint8(0xff))
	f.Add("missing", "empty", "header", strings.Repeat("é", 65), "x", uint8(0b101))
	sentences := []string{
		"header x-pyrycode-server: missing or empty", "header x-pyrycode-server: longer than 256 bytes",
		"header x-pyrycode-version: missing or empty", "header user-agent: missing or empty",
	}
	f.Fuzz(func(t *testing.T, server, version, agent, device, token string, present uint8) {
		h := http.Header{}
		for i, kv := range [][2]string{
			{"x-pyrycode-server", server}, {"x-pyrycode-version", version}, {"user-agent", agent},
			{"x-pyrycode-device-name", device}, {"x-pyrycode-token", token},
		} {
			if present>>i&1 != 0 {
				h.Set(kv[0], kv[1])
			}
		}
		common := present&1 != 0 && server != "" && len(server) <= 256 && present&4 != 0 && agent != ""

		binary, err := ParseBinaryHello(h)
		if want := common && present&2 != 0 && version != ""; (err == nil) != want {
			t.Fatalf("ParseBinaryHello(%q) error = %v; want one: %v", h, err, !want)
		}
		checkHeaderError(t, err, sentences)
		if err == nil && (string(binary.Server) != server || binary.Version != Printable(version, 128)) {
			t.Fatalf("ParseBinaryHello(%q) = %+v", h, binary)
		}

		phone, err := ParsePhoneHello(h)
		if (err == nil) != common {
			t.Fatalf("ParsePhoneHello(%q) error = %v; want one: %v", h, err, !common)
		}
		checkHeaderError(t, err, sentences)
		if err == nil && (string(phone.Server) != server || phone.Device != Printable(h.Get("x-pyrycode-device-name"), 128)) {
			t.Fatalf("ParsePhoneHello(%q) = %q", h, phone)
		}

		checkPrintable(t, device, 128)
		checkPrintable(t, server, len(version))
	})
}

// An error has one of a few fixed texts, so that it cannot contain a value.
func checkHeaderError(t *testing.T, err error, sentences []string) {
	if err == nil {
		return
	}
	if _, ok := errors.AsType[*HeaderError](err); !ok || !slices.Contains(sentences, err.Error()) {
		t.Fatalf("error %T %q; want a *HeaderError that is one of %q", err, err, sentences)
	}
}
