package access

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var hash1 = SubjectOf("s1").String()

func TestEachLineOfAFileGrantsWhatItSays(t *testing.T) {
	day := time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		text string
		want Line
	}{
		{"", Line{Comment: true}},
		{"  # s1", Line{Comment: true}},
		{"s1", Line{Subject: SubjectOf("s1")}},
		{"\ts1\r\n", Line{Subject: SubjectOf("s1")}},
		{"s#1", Line{Subject: SubjectOf("s#1")}},
		{"sha256:" + hash1, Line{Subject: SubjectOf("s1"), Hashed: true}},
		{"sha256:" + strings.ToUpper(hash1), Line{Subject: SubjectOf("s1"), Hashed: true}},
		{"s1 phones=4 rate=60 expires=2027-01-31  # Anna's laptop # 2", Line{Subject: SubjectOf("s1"), Note: "Anna's laptop # 2",
			Entry: Entry{Phones: 4, Rate: 60, Expires: day}}},
		{"s1 expires=2027-01-31T01:00:00+01:00", Line{Subject: SubjectOf("s1"), Entry: Entry{Expires: day}}},
		{"s1\t#phones=3", Line{Subject: SubjectOf("s1"), Note: "phones=3"}},
	} {
		got, err := ParseLine(tt.text)
		if err != nil || got != tt.want {
			t.Errorf("%q: %+v, %v; want %+v", tt.text, got, err, tt.want)
		}
	}
}

func TestAFileWithAProblemIsRefusedAsAWhole(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", "it is empty"},
		{"s1", "cut off"},
		{"sha256:abcd\n", "line 1: a SHA-256 must have 64"},
		{"s1\n\ns1\n", "line 3: the same entry as in line 1"},
		{"s1\nsha256:" + hash1 + "\n", "line 2: the same entry as in line 1"},
		{"s1 phones=0\n", "phones: must be a whole number from 1"},
		{"s1 phones=many\n", "phones: must be a whole number from 1"},
		{"s1 rate=-1\n", "rate: must be"},
		{"s1 expires=tomorrow\n", "expires: must be a date"},
		{"s1 expires=1969-01-01\n", "expires: must be a date"},
		{"s1 phone=3\n", "an option that does not exist"},
		{"s1 two\n", "an option that does not exist"},
		{"s1 name=anna\n", "an option that does not exist"},
		{strings.Repeat("x", 257) + "\n", "more than 256 bytes"},
		{"token:" + hash1 + " name=anna\n", "a token, in a file for --access list"},
		{strings.Repeat("s1\n", 9), "line 6: the same entry as in line 1; and more"},
	} {
		b, err := ParseBook([]byte(tt.text), ServerIDs)
		if b != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.40q: %v; want %q", tt.text, err, tt.want)
		} else if strings.Contains(err.Error(), "s1") || strings.Contains(err.Error(), hash1[:8]) {
			t.Errorf("%.40q: the error contains the server-id: %v", tt.text, err)
		}
	}
}

func TestABookKnowsItsExpiries(t *testing.T) {
	b, err := ParseBook([]byte("s1 expires=2027-01-03\ns2\ns3 expires=2027-01-01\ns4 expires=2027-01-03\n"), ServerIDs)
	if err != nil {
		t.Fatal(err)
	}
	day := func(n int) time.Time { return time.Date(2027, 1, n, 0, 0, 0, 0, time.UTC) }
	for _, tt := range []struct {
		now     time.Time
		expired int
		next    time.Time
	}{
		{day(1).Add(-1), 0, day(1)},
		{day(1), 1, day(3)},
		{day(2), 1, day(3)},
		{day(3), 3, time.Time{}},
	} {
		next, _ := b.nextEnd(tt.now)
		if n := b.Expired(tt.now); n != tt.expired || next != tt.next {
			t.Errorf("at %v: %d expired, the next at %v; want %d, %v", tt.now, n, next, tt.expired, tt.next)
		}
	}
}

func TestAFormattedLineIsParsedAsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Line{Subject: SubjectOf(rapid.String().Draw(t, "id")), Hashed: true}
		l.Phones, l.Rate = rapid.IntRange(0, maxPhones).Draw(t, "phones"), rapid.IntRange(0, maxRate).Draw(t, "rate")
		if rapid.Bool().Draw(t, "expires") {
			l.Expires = time.Unix(rapid.Int64Range(0, 7e9).Draw(t, "end"), 0).UTC()
		}
		l.Note = strings.TrimSpace(rapid.StringMatching(`[ -~]{0,40}`).Draw(t, "note"))
		got, err := ParseLine(FormatLine(l))
		if err != nil || got != l {
			t.Fatalf("%q gives %+v, %v; want %+v", FormatLine(l), got, err, l)
		}
	})
}

func FuzzParseBook(f *testing.F) {
	f.Add("# a\ns1 phones=4 rate=60 expires=2027-01-31  # b\nsha256:" + hash1 + "\n")
	f.Add("token:" + hash1 + " name=anna ids=3\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, kind := range []Kind{ServerIDs, Tokens} {
			b, err := ParseBook([]byte(text), kind)
			if (b == nil) == (err == nil) {
				t.Fatalf("%v, %v", b, err)
			}
			if b == nil {
				continue
			}
			lines, err := Lines([]byte(text))
			if err != nil || len(lines) != b.Len() {
				t.Fatalf("%d entries, Lines finds %d, %v", b.Len(), len(lines), err)
			}
		}
	})
}

func BenchmarkParseBook(b *testing.B) {
	text := bigFile(100_000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := ParseBook(text, ServerIDs); err != nil {
			b.Fatal(err)
		}
	}
}

// bigFile returns a file with n entries.
func bigFile(n int) []byte {
	var b strings.Builder
	for i := range n {
		b.WriteString(FormatLine(Line{Subject: SubjectOf(fmt.Sprint("s", i)), Note: fmt.Sprint("user ", i)}))
	}
	return []byte(b.String())
}
