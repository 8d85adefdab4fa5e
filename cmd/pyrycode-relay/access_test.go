package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// accessRun runs the command access with the file and returns its exit code and output.
func accessRun(t *testing.T, file string, args ...string) (int, string) {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(t.Context(), append([]string{"access"}, args...), []string{"PYRYCODE_RELAY_ACCESS=list", "PYRYCODE_RELAY_ACCESS_FILE=" + file}, &out, &errs)
	return code, out.String() + errs.String()
}

func TestAccessAddsListsAndRemovesEntries(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access")
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"add", "s1", "--note", "Anna's laptop"}, 0, "added sha256:e8bc163c82ee (Anna's laptop); a relay that runs with --access-file"},
		{[]string{"add", "s2", "--expires", "2190-01-01", "--phones", "2", "--rate", "60"}, 0, "added sha256:"},
		{[]string{"add", "s1"}, 1, "it has an entry in the file already; remove it first to change it; nothing has changed"},
		{[]string{"list"}, 0, "sha256:e8bc163c82ee  never       –       –     Anna's laptop\n"},
		{[]string{"list"}, 0, "2190-01-01  2       60    \n"},
		{[]string{"remove", "s3"}, 1, "the file has no such entry; nothing has changed"},
		{[]string{"remove", "sha256:e8bc163c"}, 0, "removed sha256:e8bc163c82ee (Anna's laptop)"},
		{[]string{"remove", "s2"}, 0, "removed sha256:"},
		{[]string{"list"}, 0, "ENTRY  EXPIRES  PHONES  RATE  NOTE\n"},
		{nil, 2, "access needs a command"},
		{[]string{"token"}, 2, "access token needs a command"},
		{[]string{"ad", "s1"}, 2, `unknown command "ad"; did you mean access add?`},
		{[]string{"token", "ad", "anna"}, 2, `unknown command "ad"; did you mean access token add?`},
		{[]string{"everything"}, 2, `unknown command "everything"; pyrycode-relay access --help`},
		{[]string{"add"}, 2, "the argument ID is missing"},
		{[]string{"add", "s1", "s2"}, 2, `unexpected argument "s2"; put quotes around`},
		{[]string{"list", "s1"}, 2, `unexpected argument "s1"`},
		{[]string{"add", ""}, 2, "must have 1 to 256 bytes"},
		{[]string{"add", "a\nb"}, 2, "has a control character"},
		{[]string{"remove", "sha256:2"}, 2, "give at least 8 digits of the hash"},
		{[]string{"add", "s4", "--expires", "2000-01-01"}, 2, `--expires "2000-01-01": must be in the future`},
		{[]string{"token", "add", "anna", "--expires", "2000-01-01"}, 2, `--expires "2000-01-01": must be in the future`},
		{[]string{"token", "add", "a b"}, 2, "must have 1 to 64 letters"},
		{[]string{"add", "s1", "--expires", "soon"}, 2, `--expires "soon": must be a date, a time or a duration`},
		{[]string{"add", "s1", "--phones", "-1"}, 2, "must be from 0 to 10000"},
		{[]string{"add", "s1", "--note", "a\nb"}, 2, "no control characters"},
		{[]string{"add", "sha256:12"}, 2, "must have 64 hexadecimal digits"},
	} {
		if code, got := accessRun(t, file, tt.args...); code != tt.code || !strings.Contains(got, tt.want) {
			t.Errorf("access %q: %d\n%s\nwant %d, %s", tt.args, code, got, tt.code, tt.want)
		}
	}
	if text, err := os.ReadFile(file); err != nil || bytes.Contains(text, []byte("s1\n")) || !bytes.HasPrefix(text, []byte("#")) {
		t.Errorf("the file is\n%s, %v", text, err)
	}
}

func TestAccessListInJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access")
	if err := os.WriteFile(file, []byte("s1 expires=2000-01-01 # a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, out := accessRun(t, file, "list"); !strings.Contains(out, "2000-01-01 (ended)") {
		t.Errorf("the list does not say that the entry has ended:\n%s", out)
	}
	code, out := accessRun(t, file, "list", "--json")
	var got []map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 {
		t.Fatalf("%d, %v:\n%s", code, err, out)
	}
	if len(got) != 1 || got[0]["expired"] != true || got[0]["note"] != "a" || len(got[0]["sha256"].(string)) != 64 {
		t.Errorf("got %v", got)
	}
}

func TestAccessSaysThatServeDoesNotReadTheFile(t *testing.T) {
	var out bytes.Buffer
	file := filepath.Join(t.TempDir(), "access")
	if code := run(t.Context(), []string{"access", "add", "s1", "--access-file", file}, nil, &out, &out); code != 0 || !strings.Contains(out.String(), "note: --access is open here; serve reads such a file with --access list") {
		t.Errorf("%d\n%s", code, &out)
	}
}
