package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// configAt writes a configuration file and returns its name.
func configAt(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "relay.yml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestTheVariableWinsOverTheFileAndTheFlagOverBoth(t *testing.T) {
	file := configAt(t, "grace: 1s\nburst: 1\nmax-conns: 1\n")
	c := newCommand([]string{"PYRYCODE_RELAY_BURST=2", "PYRYCODE_RELAY_MAX_CONNS=2"}, io.Discard)
	if _, lines := c.read([]string{"--config", file, "--max-conns", "3"}); lines != nil {
		t.Fatal(lines)
	}
	got := make(map[string]string)
	for _, s := range c.Serve.Config.Settings(c.env.origins) {
		got[s.Name] = s.Value + " " + s.From
	}
	for name, want := range map[string]string{
		"grace": "1s " + file + ":1", "burst": "2 PYRYCODE_RELAY_BURST", "max-conns": "3 flag", "max-phones": "16 default",
	} {
		if got[name] != want {
			t.Errorf("%s is %s; want %s", name, got[name], want)
		}
	}
}

func TestAListInAFileIsAList(t *testing.T) {
	for _, text := range []string{"trusted-proxies: [10.0.0.0/8, 192.0.2.7]", "trusted-proxies:\n- 10.0.0.0/8\n- 192.0.2.7", "trusted-proxies: 10.0.0.0/8,192.0.2.7"} {
		got := parsed(t, nil, "--config", configAt(t, text)).TrustedProxies
		if strings.Join(got, " ") != "10.0.0.0/8 192.0.2.7" {
			t.Errorf("%s: %q", text, got)
		}
	}
}

func TestEachProblemOfAFileIsReportedWithItsLine(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", ""},
		{"comments only", "# nothing\n", ""},
		{"a typo", "gracce: 1m\n", `FILE:1: "gracce" is no option; did you mean grace?`},
		{"an unknown option that resembles no other", "qwertzuiop: 1m\n", `FILE:1: "qwertzuiop" is no option; pyrycode-relay help --all lists them`},
		{"a file that names another file", "config: x.yml\n", `FILE:1: "config" is no option; pyrycode-relay help --all lists them`},
		{"an option of another command", "count: 1\n", `FILE:1: "count" is no option; pyrycode-relay help --all lists them`},
		{"twice", "grace: 1m\n\ngrace: 2m\n", `FILE:3: grace stands in line 1 already; take one of them out`},
		{"no value", "domain:\n", `FILE:1: domain has no value; give one ("" for none), or take the line out`},
		{"a nested value", "grace: {a: 1m}\n", `FILE:1: grace must have one value, or a list of them; for example grace: 30s`},
		{"an anchor", "grace: &a 1m\n", `FILE:1: grace must have one value, or a list of them; for example grace: 30s`},
		{"not a time", "\ngrace: 30\n", `FILE:2: grace "30": must be a time with its unit; for example 30s, 1m30s or 500ms`},
		{"a value outside its range", "grace: 0s\n", `FILE:1: grace "0s": must be from 1ms to 1h; the default is 30s`},
		{"yes in place of true", "insecure: yes\n", `FILE:1: insecure "yes": must be true or false; without a value the flag means true`},
		{"a list at the top", "- grace\n", `FILE:1: must be lines of option: value; for example grace: 30s`},
		{"two documents", "grace: 1m\n---\nburst: 1\n", `FILE:2: must be one document; take out the line --- and what follows`},
		{"a bad item of a list", "trusted-proxies:\n- 10.0.0.0/8\n- nginx\n", `FILE:3: trusted-proxies "nginx": must be a network or an address; for example 10.0.0.0/8 or 192.0.2.7`},
		{"a bad item in brackets", "trusted-proxies: [10.0.0.0/8,\n  nginx,\n  192.0.2.1]\n", `FILE:2: trusted-proxies "nginx": must be a network or an address; for example 10.0.0.0/8 or 192.0.2.7`},
		{"an item with a comma", "trusted-proxies:\n- 10.0.0.0/8\n- a,b\n", "FILE:3: trusted-proxies must have one value, or a list of them; for example trusted-proxies: \"…\""},
		{"an item that is a list", "trusted-proxies: [10.0.0.0/8,\n  [b]]\n", "FILE:2: trusted-proxies must have one value, or a list of them; for example trusted-proxies: \"…\""},
		{"an item in brackets that begins with a star", "trusted-proxies: [10.0.0.0/8,\n  *x]\n", "FILE:2: trusted-proxies: the item begins with what means something else in YAML; put the whole item in quotes"},
		{"the end of a document", "grace: 1m\n...\n", ""},
		{"options after the end of the document", "grace: 1m\n...\nburst: 1\n", "FILE:2: ends the document, and options follow; take out the line ..."},
		{"a version of YAML", "# c\n%YAML 1.2\n---\ngrace: 1m\n...\n", ""},
		{"a version of YAML and a mistake", "%YAML 1.2\n---\ngrace: 0s\n...\n# c\n", `FILE:3: grace "0s": must be from 1ms to 1h; the default is 30s`},
		{"two documents, the first ended", "grace: 1m\n...\n---\nburst: 1\n", `FILE:3: must be one document; take out the line --- and what follows`},
		{"a value that begins with a bracket", "listen: [::1]:8080\n", "FILE:1: listen: the value begins with [, which means something else in YAML; put the whole value in quotes"},
		{"a heading", "limits:\n  burst: 0\n", "FILE:1: \"limits\" is no option, and options stand under no heading; begin each at the left edge\n  FILE:2: burst \"0\": must be from 1 to 1000000; the default is 1000"},
		{"a tab", "grace: 30s\n\tburst: 0\n", "FILE:2: begins with a tab; begin options at the left edge, without one\n  FILE:2: burst \"0\": must be from 1 to 1000000; the default is 1000"},
		{"tabs from the first line on", "\tgrace: 30s\n\tburst: 0\n", "FILE:1: begins with a tab; begin options at the left edge, without one\n  FILE:2: begins with a tab; begin options at the left edge, without one\n  FILE:2: burst \"0\": must be from 1 to 1000000; the default is 1000"},
		{"an option with an indent", "grace: 30s\n  burst: 0\n", "FILE:2: burst begins further to the right than the option above; begin it at the left edge\n  FILE:2: burst \"0\": must be from 1 to 1000000; the default is 1000"},
		{"all options with the same indent", "  grace: 30s\n  burst: 0\n", `FILE:2: burst "0": must be from 1 to 1000000; the default is 1000`},
		{"no space after the colon", "grace:30\nburst: 1\n", "FILE:1: grace: a space must stand behind the colon\n  FILE:1: grace \"30\": must be a time with its unit; for example 30s, 1m30s or 500ms"},
		{"no colon", "grace=30s\nburst: 0\n", "FILE:1: must be option: value; for example grace: 30s\n  FILE:2: burst \"0\": must be from 1 to 1000000; the default is 1000"},
		{"a line without an option", "grace 30s\n", "FILE:1: must be option: value; for example grace: 30s"},
		{"a value that begins with a star", "burst: 0\nacme-dir: *x\n", "FILE:2: acme-dir: the value begins with *, which means something else in YAML; put the whole value in quotes\n  FILE:2: acme-dir \"*x\": has no use without --domain; give --domain, or leave it out\n  FILE:1: burst \"0\": must be from 1 to 1000000; the default is 1000"},
		{"a quote without its end", "log-format: \"json\nburst: 0\n", "FILE:1: log-format: the quote \" that begins the value has no end; close it\n  FILE:2: burst \"0\": must be from 1 to 1000000; the default is 1000"},
		{"text behind a quote", "burst: 0\nlog-format: 'json' x\n", "FILE:2: log-format: the value in quotes is no value of YAML; nothing may stand behind the closing quote, and in \"double quotes\" a \\ begins an escape\n  FILE:1: burst \"0\": must be from 1 to 1000000; the default is 1000"},
		{"a list without its end", "trusted-proxies: [10.0.0.0/8\nburst: 0\n", "FILE:1: trusted-proxies: the list that begins with [ has no end; close it with ]\n  FILE:2: burst \"0\": must be from 1 to 1000000; the default is 1000"},
		{"a list with an item that begins with a star", "trusted-proxies:\n- 10.0.0.0/8\n- *x\nburst: 0\n", "FILE:3: trusted-proxies: the value begins with *, which means something else in YAML; put the whole value in quotes\n  FILE:4: burst \"0\": must be from 1 to 1000000; the default is 1000"},
		{"a colon in a value", "log-format: a: b\nburst: 0\n", "FILE:1: log-format: the value has a colon with a space behind it, which means something else in YAML; put the whole value in quotes\n  FILE:1: log-format \"a: b\": must be text or json; the default is text\n  FILE:2: burst \"0\": must be from 1 to 1000000; the default is 1000"},
		{"line ends of Windows and a byte order mark", "\uFEFFgrace: 30s\r\nburst: 0\r\n", `FILE:2: burst "0": must be from 1 to 1000000; the default is 1000`},
		{"no UTF-8", "# caf\xe9\ngrace: 30s\nburst: 0\n", "FILE:1: has bytes that are no UTF-8; save the file as UTF-8\n  FILE:3: burst \"0\": must be from 1 to 1000000; the default is 1000"},
		{"a control character", "grace: 3\x000s\nburst: 0\n", "FILE:1: has the control character U+0000; take it out\n  FILE:2: burst \"0\": must be from 1 to 1000000; the default is 1000"},
		{"three documents with mistakes", "grace: 1m\n---\nburst: 0\n---\ngracce: 1\n", "FILE:2: must be one document; take out the line --- and what follows\n  FILE:4: must be one document; take out the line --- and what follows\n  FILE:5: \"gracce\" is no option; did you mean grace?\n  FILE:3: burst \"0\": must be from 1 to 1000000; the default is 1000"},
		{"a secret", "fcm-credential: x\n", `FILE:1: "fcm-credential" is no option; did you mean the environment variable PYRYCODE_RELAY_FCM_CREDENTIALS?`},
		{"the value of a secret is not repeated", "cluster-secret: @CANARY\n", "FILE:1: cluster-secret: the value begins with @, which means something else in YAML; put the whole value in quotes\n  FILE:1: cluster-secret (withheld): has no use without --cluster or --cluster-embedded; give one of them, or leave it out\n  FILE:1: cluster-secret (withheld): must come from the environment, as PYRYCODE_RELAY_CLUSTER_SECRET; it is a secret: other users can see a command line, and files are copied about"},
		{"several problems", "gracce: 1m\nburst: 0\nmax-conns: x\n", "FILE:1: \"gracce\" is no option; did you mean grace?\n  FILE:3: max-conns \"x\": must be a whole number; for example 1000\n  FILE:2: burst \"0\": must be from 1 to 1000000; the default is 1000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := configAt(t, tt.text)
			c := newCommand(nil, io.Discard)
			_, lines := c.read([]string{"serve", "--config", file})
			if got := strings.ReplaceAll(strings.Join(lines, "\n  "), file, "FILE"); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
	want := `pyrycode-relay: --config "/nowhere/relay.yml": must be a file that can be read (no such file or directory); its format is in docs/operate.md` + "\n"
	if got := call(t.Context(), nil, "serve", "--config", "/nowhere/relay.yml"); got.code != refused || got.stderr != want {
		t.Errorf("no file: %+v; want %s", got, want)
	}
	if got := call(t.Context(), nil, "check", "--config", configAt(t, strings.Repeat("#", maxConfigFile+1))); got.code != refused || !strings.Contains(got.stdout, "longer than 1048576 bytes") {
		t.Errorf("a file without end: %+v", got)
	}
}

func FuzzConfigFile(f *testing.F) {
	f.Add("grace: 1m\n")
	f.Add("trusted-proxies: [a, b]\n---\n")
	f.Add("a: &x [*x]\n<<: *x\n? {}\n: ")
	f.Fuzz(func(t *testing.T, text string) {
		c := newConfigFile("relay.yml")
		c.parse([]byte(text))
		for name, v := range c.values {
			if v.line < 1 || config.EnvName(name) == config.EnvPrefix {
				t.Errorf("%q: %+v", name, v)
			}
		}
	})
}

func TestCheckReportsFindingsAndReturns0Or2(t *testing.T) {
	onFree := []string{"check", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"}
	got := call(t.Context(), []string{"PYRYCODE_RELAY_GRACE=1s"}, onFree...)
	flat := strings.Join(strings.Fields(got.stdout), " ")
	for _, want := range []string{"OPTION VALUE FROM ", " grace 1s PYRYCODE_RELAY_GRACE ", " burst 1000 default ", "unusual --grace 1s: ", "well --listen 127.0.0.1:0 is free", "The relay would run."} {
		if got.code != done || !strings.Contains(flat, want) {
			t.Errorf("check returns %d and has no %q:\n%s", got.code, want, got.stdout)
		}
	}
	memory := []string{"--quiet", "--memory-limit", "512MiB", "--allow-root"}
	for i, tt := range []struct{ grace, want string }{{"30s", ""}, {"1s", "unusual --grace 1s: "}, {"0s", "wrong --grace \"0s\": must be"}} {
		got := call(t.Context(), nil, append(append(slices.Clone(onFree), memory...), "--grace", tt.grace)...)
		var said []string
		for line := range strings.Lines(got.stdout) {
			if flat := strings.Join(strings.Fields(line), " "); !strings.HasPrefix(flat, "unusual this user") { // is root, may open few files
				said = append(said, flat)
			}
		}
		if (got.code == refused) != (i == 2) || tt.want == "" && len(said) > 0 || !strings.HasPrefix(strings.Join(said, " "), tt.want) {
			t.Errorf("--quiet with --grace %s: %d, %q; want only %q", tt.grace, got.code, said, tt.want)
		}
	}
	got = call(t.Context(), nil, append(onFree, "--grace", "0s", "--json")...)
	var r struct {
		OK       bool
		Options  []config.Setting
		Problems []string
	}
	if err := json.Unmarshal([]byte(got.stdout), &r); err != nil || got.code != refused || r.OK || len(r.Options) != len(config.Options()) ||
		len(r.Problems) != 1 || !strings.HasPrefix(r.Problems[0], `--grace "0s": must be`) {
		t.Errorf("%v, %+v from %d, %s", err, r, got.code, got.stdout)
	}
}

// A reload refuses a file without options, so check must mention it.
func TestCheckWarnsOfAFileThatSetsNothing(t *testing.T) {
	file := configAt(t, "# nothing\n")
	got := call(t.Context(), nil, "check", "--quiet", "--config", file, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
	if want := "unusual  --config \"" + file + "\" sets no option"; got.code != done || !strings.Contains(got.stdout, want) {
		t.Errorf("check returns %d and says\n%s\nwant %s", got.code, got.stdout, want)
	}
}

func TestSIGHUPReadsTheFileAgain(t *testing.T) {
	file := configAt(t, "max-phones: 3\n")
	cmd, lines := child(t, append(onFreePorts, "--config", file)...)
	s := readyLine(t, lines)
	reload := func(text, want string, spoil func() error) {
		t.Helper()
		if spoil == nil {
			spoil = func() error { return os.WriteFile(file, []byte(text), 0o600) }
		}
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			if strings.Contains(lines.Text(), want) {
				return
			}
		}
		t.Fatalf("the log never says %s", want)
	}
	hup := func(text, want string) { t.Helper(); reload(text, want, nil) }
	hup("max-phones: 4\n", `"msg":"reload: options have changed","options":"max-phones=4"`)
	pipe := file + ".pipe"
	for _, tt := range []struct {
		text, want string
		spoil      func() error
	}{
		{"", "has no options now, and had some before; put them back; to go back to the default of every option, restart", nil},
		{"# max-phones: 3\n", "has no options now", nil},
		{"{}\n", "has no options now", nil},
		{"", "no such file or directory", func() error { return os.RemoveAll(file) }},
		{"", "it is a pipe, which can be read only once; put the content into a regular file", func() error {
			return errors.Join(os.RemoveAll(file), syscall.Mkfifo(pipe, 0o600), os.Rename(pipe, file))
		}},
		{"", "it is a directory", func() error { return errors.Join(os.RemoveAll(file), os.Mkdir(file, 0o700)) }},
		{"", "it is not a regular file", func() error { return errors.Join(os.RemoveAll(file), os.Symlink(os.DevNull, file)) }},
	} {
		reload(tt.text, tt.want, tt.spoil)
		m := s.page(t, "/metrics")
		for _, want := range []string{"\npyrycode_relay_limit_phones_per_server_id 4\n", "\npyrycode_relay_config_last_reload_successful 0\n"} {
			if !strings.Contains(m, want) {
				t.Errorf("after %q (%s) /metrics has no %s", tt.text, tt.want, want)
			}
		}
	}
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	hup("max-phone: 5\n", `relay.yml:1: \"max-phone\" is no option; did you mean max-phones?`)
	for _, want := range []string{"\npyrycode_relay_limit_phones_per_server_id 4\n", "\npyrycode_relay_config_last_reload_successful 0\n"} {
		if !strings.Contains(s.page(t, "/metrics"), want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
}
