package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// byOracle is ParseEnvelope written with encoding/json.
func byOracle(b []byte) (Envelope, error) {
	if !utf8.Valid(b) {
		return Envelope{}, ErrNotUTF8
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(b, &object); err != nil || object == nil {
		return Envelope{}, ErrNotObject
	}
	var fields struct {
		ConnID    string          `json:"conn_id"`
		Frame     json.RawMessage `json:"frame"`
		CloseCode int             `json:"close_code"`
		Push      json.RawMessage `json:"push_wake"`
	}
	if err := json.Unmarshal(b, &fields); err != nil {
		return Envelope{}, ErrField
	}
	cut := func(s string) string { return s[:min(len(s), MaxText)] }
	e := Envelope{ConnID: []byte(cut(fields.ConnID)), CloseCode: fields.CloseCode}
	if fields.Frame != nil && string(fields.Frame) != "null" {
		e.Frame = fields.Frame
	}
	if fields.ConnID == "" && fields.Push != nil {
		if err := json.Unmarshal(fields.Push, &e.Push); err != nil {
			return Envelope{}, ErrField
		}
		if e.Push != nil {
			*e.Push = PushWake{cut(e.Push.Platform), cut(e.Push.Token)}
		}
	}
	return e, nil
}

func describe(e Envelope, err error) string {
	push := "nil"
	if e.Push != nil {
		push = fmt.Sprintf("%q", *e.Push)
	}
	return fmt.Sprintf("id %q frame %q (nil: %v) close %d push %s, error %v",
		e.ConnID, e.Frame, e.Frame == nil, e.CloseCode, push, err)
}

func agreesWithOracle(t rapid.TB, b []byte) {
	before := bytes.Clone(b)
	got, gotErr := ParseEnvelope(b)
	want, wantErr := byOracle(b)
	if g, w := describe(got, gotErr), describe(want, wantErr); g != w {
		t.Helper()
		t.Fatalf("ParseEnvelope(%.300q)\n got %.600s\nwant %.600s", b, g, w)
	}
	if !bytes.Equal(b, before) {
		t.Fatalf("ParseEnvelope changed its input %.300q to %.300q", before, b)
	}
	if got.Frame != nil && !ValidFrame(got.Frame) {
		t.Fatalf("ParseEnvelope(%.300q) let through the frame %.300q, which is not valid", b, got.Frame)
	}
}

func TestParseEnvelope(t *testing.T) {
	frame := []byte(`{"v":2}`)
	id := []byte("c-0123456789abcdef")
	for _, tt := range []struct {
		name  string
		input string
		want  Envelope
		err   error
	}{
		{"a frame for a phone", `{"conn_id":"c-0123456789abcdef","frame":{"v":2}}`, Envelope{ConnID: id, Frame: frame}, nil},
		{"a frame and a close", `{"conn_id":"c-0123456789abcdef","frame":{"v":2},"close_code":4404}`, Envelope{ConnID: id, Frame: frame, CloseCode: 4404}, nil},
		{"a close alone comes with a null frame", `{"conn_id":"c-0123456789abcdef","frame":null,"close_code":4404}`, Envelope{ConnID: id, CloseCode: 4404}, nil},
		{"fields in any order with any white space", " {\n\t\"close_code\" : 4404 ,\r\"frame\": {\"v\":2} , \"conn_id\" :\"c-0123456789abcdef\" } ", Envelope{ConnID: id, Frame: frame, CloseCode: 4404}, nil},
		{"unknown fields are let pass", `{"x":[{}],"conn_id":"c-0123456789abcdef","frame":{"v":2},"y":null}`, Envelope{ConnID: id, Frame: frame}, nil},
		{"an unknown field between the usual ones", `{"conn_id":"c-0123456789abcdef","x":1,"frame":{"v":2}}`, Envelope{ConnID: id, Frame: frame}, nil},
		{"a second conn_id after one of the usual form", `{"conn_id":"c-0123456789abcdef","conn_id":"a","frame":{"v":2}}`, Envelope{ConnID: []byte("a"), Frame: frame}, nil},
		{"nothing after the comma of the usual conn_id", `{"conn_id":"c-0123456789abcdef",}`, Envelope{}, ErrNotObject},
		{"nothing after the usual conn_id", `{"conn_id":"c-0123456789abcdef","`, Envelope{}, ErrNotObject},
		{"a quote inside a conn_id of the usual length", `{"conn_id":"c-01234567","x":","frame":{"v":2}}`, Envelope{}, ErrNotObject},
		{"an escape inside a conn_id of the usual length", `{"conn_id":"c-0123456789\u0061","frame":{"v":2}}`, Envelope{ConnID: []byte("c-0123456789a"), Frame: frame}, nil},
		{"an escaped key is that key", `{"\u0063onn_id":"c-0123456789abcdef","frame":{"v":2}}`, Envelope{ConnID: id, Frame: frame}, nil},
		{"an escaped conn_id is that conn_id", `{"conn_id":"\u0063-0123456789abcdef","frame":{"v":2}}`, Envelope{ConnID: id, Frame: frame}, nil},
		{"keys in other case", `{"Conn_ID":"c-0123456789abcdef","FRAME":{"v":2}}`, Envelope{ConnID: id, Frame: frame}, nil},
		{"of repeated keys the last counts", `{"conn_id":"a","frame":1,"conn_id":"c-0123456789abcdef","frame":{"v":2}}`, Envelope{ConnID: id, Frame: frame}, nil},
		{"of repeated frames the last counts, null too", `{"conn_id":"a","frame":1,"frame":null}`, Envelope{ConnID: []byte("a")}, nil},
		{"of repeated close codes the last counts", `{"conn_id":"a","close_code":4404,"close_code":1000}`, Envelope{ConnID: []byte("a"), CloseCode: 1000}, nil},
		{"a null conn_id is none", `{"conn_id":null,"frame":1}`, Envelope{Frame: []byte("1")}, nil},
		{"a null close_code is none", `{"conn_id":"a","close_code":null}`, Envelope{ConnID: []byte("a")}, nil},
		{"a close_code below zero is passed on as such", `{"conn_id":"a","close_code":-1}`, Envelope{ConnID: []byte("a"), CloseCode: -1}, nil},
		{"a close_code of six digits", `{"conn_id":"a","close_code":100000}`, Envelope{ConnID: []byte("a"), CloseCode: 100000}, nil},
		{"a close_code with a fraction", `{"conn_id":"a","close_code":4404.0}`, Envelope{}, ErrField},
		{"a close_code with an exponent", `{"conn_id":"a","close_code":4e3}`, Envelope{}, ErrField},
		{"a close_code that overflows", `{"conn_id":"a","close_code":99999999999999999999}`, Envelope{}, ErrField},
		{"a close_code with a leading zero", `{"conn_id":"a","close_code":04404}`, Envelope{}, ErrNotObject},
		{"a close_code that is a string", `{"conn_id":"a","close_code":"4404"}`, Envelope{}, ErrField},
		{"a conn_id that is a number", `{"conn_id":1,"frame":1}`, Envelope{}, ErrField},
		{"the empty object says nothing", `{}`, Envelope{}, nil},
		{"a push wake", `{"push_wake":{"platform":"fcm","token":"t"}}`, Envelope{Push: &PushWake{"fcm", "t"}}, nil},
		{"a null push wake is none", `{"push_wake":null}`, Envelope{}, nil},
		{"a push wake of the wrong type", `{"push_wake":["fcm"]}`, Envelope{}, ErrField},
		{"a push wake with a field of the wrong type", `{"push_wake":{"token":1}}`, Envelope{}, ErrField},
		{"next to a conn_id a push wake is not looked at", `{"push_wake":{"platform":"fcm","token":"t"},"conn_id":"a","frame":1}`, Envelope{ConnID: []byte("a"), Frame: []byte("1")}, nil},
		{"nor one of the wrong type", `{"conn_id":"a","frame":1,"push_wake":7}`, Envelope{ConnID: []byte("a"), Frame: []byte("1")}, nil},
		{"with an empty conn_id it is", `{"conn_id":"","push_wake":7}`, Envelope{}, ErrField},
		{"a frame too deep for the scanner", `{"conn_id":"a","frame":` + nested("[", "", "]", 70) + `}`, Envelope{ConnID: []byte("a"), Frame: []byte(nested("[", "", "]", 70))}, nil},
		{"a conn_id that is too long", `{"conn_id":"` + strings.Repeat("a", MaxText+1) + `","frame":1}`, Envelope{ConnID: []byte(strings.Repeat("a", MaxText)), Frame: []byte("1")}, nil},
		{"one with escapes", `{"conn_id":"\n` + strings.Repeat("a", MaxText) + `","frame":1}`, Envelope{ConnID: []byte("\n" + strings.Repeat("a", MaxText-1)), Frame: []byte("1")}, nil},
		{"one that ends in the middle of a rune", `{"conn_id":"` + strings.Repeat(`\u00e9\u20ac`, MaxText/5+1) + `","frame":1}`, Envelope{ConnID: []byte(strings.Repeat("é€", MaxText/5+1)[:MaxText]), Frame: []byte("1")}, nil},
		{"texts of a push wake that are too long", `{"push_wake":{"platform":"` + strings.Repeat("a", MaxText+1) + `","token":"\n` + strings.Repeat("a", MaxText) + `"}}`, Envelope{Push: &PushWake{strings.Repeat("a", MaxText), "\n" + strings.Repeat("a", MaxText-1)}}, nil},
		{"null is no object", `null`, Envelope{}, ErrNotObject},
		{"a list is no object", `[{"conn_id":"a","frame":1}]`, Envelope{}, ErrNotObject},
		{"a string is no object", `"conn_id"`, Envelope{}, ErrNotObject},
		{"nothing is no object", ``, Envelope{}, ErrNotObject},
		{"an object and more", `{"conn_id":"a","frame":1}{}`, Envelope{}, ErrNotObject},
		{"an object cut off", `{"conn_id":"a","frame":1`, Envelope{}, ErrNotObject},
		{"a comma at the end", `{"conn_id":"a","frame":1,}`, Envelope{}, ErrNotObject},
		{"a frame that is not JSON", `{"conn_id":"a","frame":{]}`, Envelope{}, ErrNotObject},
		{"a frame that is not UTF-8", "{\"conn_id\":\"a\",\"frame\":\"\xff\"}", Envelope{}, ErrNotUTF8},
		{"an unknown field that is not UTF-8", "{\"conn_id\":\"a\",\"x\":\"\xff\"}", Envelope{}, ErrNotUTF8},
		{"not UTF-8 after the end", "{\"conn_id\":\"a\",\"frame\":1}\xff", Envelope{}, ErrNotUTF8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseEnvelope([]byte(tt.input))
			if !errors.Is(err, tt.err) {
				t.Fatalf("ParseEnvelope(%.200q) error = %v; want %v", tt.input, err, tt.err)
			}
			if g, w := describe(got, nil), describe(tt.want, nil); g != w {
				t.Errorf("ParseEnvelope(%.200q)\n got %s\nwant %s", tt.input, g, w)
			}
			agreesWithOracle(t, []byte(tt.input))
			for cut := range min(len(tt.input), 1000) { // and cut at every byte
				agreesWithOracle(t, []byte(tt.input[:cut]))
			}
		})
	}
}

// Objects of valid and almost valid parts in random order.
func TestParseEnvelopeAgreesWithEncodingJSON(t *testing.T) {
	keys := rapid.SampledFrom([]string{
		`"conn_id"`, `"frame"`, `"close_code"`, `"push_wake"`, `"conn_id"`, `"frame"`, `"close_code"`,
		`"\u0063onn_i\u0064"`, `"\ud83d\ude00"`, `"Push_Wa\u212ae"`, `"Conn_Id"`, `"FRAME"`, `"cloſe_code"`, `"pu\u0073h_wake"`, `"conn_id `, `"frames"`, `"x"`, `""`, `frame`, "\"\xff\"",
	})
	values := rapid.SampledFrom([]string{
		`"c-0123456789abcdef"`, `"c-0123456789abcdef"`, `""`, `"a\"b"`, `"\u00e9\n\/\ud83d\ude00\udead"`, `"é"`, "\"\xff\"", `"`,
		`null`, `nul`, `true`, `0`, `00`, `-0`, `1000`, `4404`, `4404.5`, `4e3`, `65536`, `123456`, `-1`, `9223372036854775808`,
		`{"v":2,"type":"noise_msg","data":"QUJD"}`, `{"platform":"fcm","token":"t"}`, `{"token":1}`, `{"Token":"T","token":null}`, `{"to\u212aen":"\ud83d","x":[{}],"platform":"\u0066cm"}`, `{"platform":{}}`,
		`[]`, `[{"a":[1,2]}]`, `{`, `]`, ``, nested("[", "", "]", 63), nested("[", "", "]", 66),
	})
	space := rapid.SampledFrom([]string{"", "", "", " ", "\n\t\r ", "\v", "\u00a0"})
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		put := func(s string) { b.WriteString(space.Draw(t, "space")); b.WriteString(s) }
		put("{")
		for i := range rapid.IntRange(0, 5).Draw(t, "fields") {
			if i > 0 {
				put(",")
			}
			put(keys.Draw(t, "key"))
			put(":")
			put(values.Draw(t, "value"))
		}
		put("}")
		put(rapid.SampledFrom([]string{"", "", "", ",", "}", "x"}).Draw(t, "tail"))
		agreesWithOracle(t, []byte(b.String()))
	})
}

func TestParseEnvelopeAliasesItsInput(t *testing.T) {
	b := []byte(`{"conn_id":"c-0123456789abcdef","frame":{"v":2}}`)
	e, err := ParseEnvelope(b)
	if err != nil {
		t.Fatal(err)
	}
	if &e.ConnID[0] != &b[12] || &e.Frame[0] != &b[40] {
		t.Errorf("ConnID and Frame do not share memory with the input")
	}
	if cap(e.Frame) != len(e.Frame) || cap(e.ConnID) != len(e.ConnID) {
		t.Errorf("cap(ConnID), cap(Frame) = %d, %d; want %d, %d: an append would write into the input",
			cap(e.ConnID), cap(e.Frame), len(e.ConnID), len(e.Frame))
	}
}

func TestWhatTheRelaySendsToABinary(t *testing.T) {
	const id ConnID = "c-0123456789abcdef"
	frame := `{"v":2}`

	got := string(AppendEnvelopePrefix([]byte("x"), id)) + frame + EnvelopeSuffix
	if want := `x{"conn_id":"c-0123456789abcdef","frame":{"v":2}}`; got != want {
		t.Errorf("envelope = %s; want %s", got, want)
	}
	if got, want := len(got)-len("x")-len(frame), EnvelopeOverhead; got != want {
		t.Errorf("an envelope adds %d bytes; EnvelopeOverhead = %d", got, want)
	}
	e, err := ParseEnvelope([]byte(got[1:]))
	if want := (Envelope{ConnID: []byte(id), Frame: []byte(frame)}); err != nil || !reflect.DeepEqual(e, want) {
		t.Errorf("read back: %s; want %s", describe(e, err), describe(want, nil))
	}

	notice := string(AppendCloseNotice([]byte("x"), id, CloseGoingAway))
	if want := `x{"conn_id":"c-0123456789abcdef","close_code":1001}`; notice != want {
		t.Errorf("close notice = %s; want %s", notice, want)
	}
	if !json.Valid([]byte(notice[1:])) {
		t.Errorf("close notice %s is not JSON", notice[1:])
	}
}

func FuzzParseEnvelope(f *testing.F) {
	for _, s := range []string{
		`{"conn_id":"c-0123456789abcdef","frame":{"v":2,"type":"noise_msg","data":"QUJD"}}`,
		`{"conn_id":"c-0123456789abcdef","frame":null,"close_code":4421}`,
		` { "close_code" : 1000 , "frame" : [ ] , "conn_id" : "" } `,
		`{"push_wake":{"platform":"fcm","token":"t"}}`, `{"push_wake":{"platform":1}}`, `{"push_wake":[]}`,
		`{"push_wake":{"platform":"fcm"},"push_wake":{"token":"t"}}`,
		`{"conn_id":"a","push_wake":1}`, `{"conn_id":"","push_wake":1}`,
		`{"conn_id":"a","conn_id":null,"frame":1,"frame":null}`, `{"CONN_ID":"a","Frame":1,"cloſe_code":1}`,
		`{"\u0063onn_id":"\u0061","frame":"\ud800"}`, `{"conn_id":"é","frame":"漢"}`, "{\"conn_id\":\"\xff\"}",
		`{"close_code":-0}`, `{"close_code":1.0}`, `{"close_code":99999}`, `{"close_code":100000}`, `{"close_code":01}`,
		`{"frame":` + nested("[", "", "]", 65) + `}`, `null`, `[]`, `{}`, `{`, ``, `{"frame":}`, `{"frame":1}}`,
	} {
		f.Add([]byte(s))
	}
	for _, s := range hostile(100) {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) { agreesWithOracle(t, b) })
}
