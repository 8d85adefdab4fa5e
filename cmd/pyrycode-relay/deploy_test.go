package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// deployFlags are the flags in docs/deploy that belong to other programs.
var deployFlags = map[string]bool{
	"--always": true, "--build": true, "--build-arg": true, "--chown": true, "--config.file": true,
	"--enable-feature": true, "--fdname": true, "--from": true, "--from-literal": true, "--interval": true, "--no-deps": true, "--now": true, "--offline": true, "--platform": true,
	"--retries": true, "--start-period": true, "--storage.tsdb.retention.time": true,
	"--tags": true,
}

var (
	// A command follows the program's name or path, as in a shell or in a list of a
	// Dockerfile. In prose, a comma or a colon must therefore follow the bare name.
	deployCommand  = regexp.MustCompile(`(?:^|[ /"'` + "`" + `=@+!-])pyrycode-relay(?: |", ")([a-z]+)\b`)
	deployFlag     = regexp.MustCompile("(?:^|[ `(\"\\[])(--[a-z][a-z.-]*[a-z])")
	deployVariable = regexp.MustCompile(config.EnvPrefix + `[A-Z_]*[A-Z]`)
)

// misnamed returns the commands, options and variables in text that the daemon does not
// have. seen is the number of all names in text.
func misnamed(text string, commands, flags, vars map[string]bool) (wrong []string, seen int) {
	for line := range strings.Lines(text) {
		for _, m := range deployCommand.FindAllStringSubmatch(line, -1) {
			seen++
			if !commands[m[1]] {
				wrong = append(wrong, "command "+m[1])
			}
		}
		for _, m := range deployFlag.FindAllStringSubmatch(line, -1) {
			seen++
			if !flags[m[1]] && !deployFlags[m[1]] {
				wrong = append(wrong, "option "+m[1])
			}
		}
		for _, v := range deployVariable.FindAllString(line, -1) {
			seen++
			if !vars[v] {
				wrong = append(wrong, "variable "+v)
			}
		}
	}
	return wrong, seen
}

// model returns the commands, the flags and the variables of the daemon.
func model(t *testing.T) (commands, flags, vars map[string]bool) {
	t.Helper()
	commands, flags = make(map[string]bool), make(map[string]bool)
	root := newCommand(nil, io.Discard).root
	for _, cmd := range root.Commands() {
		commands[cmd.Name()] = true
	}
	for _, cmd := range cli.Leaves(root) {
		for _, o := range cli.OptionsOf(cmd) {
			flags["--"+o.Name], flags["--"+o.Alias] = true, true
		}
	}
	return commands, flags, names(root)
}

// The files in docs/deploy name only commands, options and variables that exist. Those
// in YAML can be parsed.
func TestTheFilesToDeployWithNameWhatExists(t *testing.T) {
	commands, flags, vars := model(t)
	var files []string
	named := 0
	look := func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files = append(files, d.Name())
		wrong, seen := misnamed(string(text), commands, flags, vars)
		named += seen
		for _, w := range wrong {
			t.Errorf("%s names the %s, which does not exist", path, w)
		}
		if ext := filepath.Ext(path); ext == ".yaml" || ext == ".yml" {
			for dec := yaml.NewDecoder(strings.NewReader(string(text))); ; {
				var doc any
				if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Errorf("%s is no YAML: %v", path, err)
					break
				} else if doc == nil {
					t.Errorf("%s has an empty document", path)
				}
			}
		}
		return nil
	}
	for _, root := range []string{"../../docs/deploy", "../../internal/install/systemd"} {
		if err := filepath.WalkDir(root, look); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"pyrycode-relay.service", "Dockerfile", "compose.yaml", "kubernetes.yaml", "nginx.conf", "haproxy.cfg", "Caddyfile"} {
		if !slices.Contains(files, f) {
			t.Errorf("docs/deploy has no %s", f)
		}
	}
	if named < 40 {
		t.Errorf("only %d commands, options and variables seen in %v", named, files)
	}
}

// misnamed finds a wrong name in every notation of the files.
func TestMisnamedFindsWrongNamesInEveryNotation(t *testing.T) {
	commands, flags, vars := model(t)
	for _, tt := range []struct{ text, wrong string }{
		{"ExecStart=/usr/local/bin/pyrycode-relay serve --config /etc/x.yml", ""},
		{`CMD ["/pyrycode-relay", "healthcheck"]`, ""},
		{"PYRYCODE_RELAY_LISTEN: :8080", ""},
		{"ExecStart=/usr/local/bin/pyrycode-relay server", "command server"},
		{`CMD ["/pyrycode-relay", "health"]`, "command health"},
		{"#   pyrycode-relay run", "command run"},
		{"# Longer than --drains (10 s)", "option --drains"},
		{`args: ["--listens=:80"]`, "option --listens"},
		{"args: [--listens, x]", "option --listens"},
		{"- --listens=:80", "option --listens"},
		{"- name: PYRYCODE_RELAY_TRUSTED_PROXY", "variable PYRYCODE_RELAY_TRUSTED_PROXY"},
	} {
		wrong, seen := misnamed(tt.text, commands, flags, vars)
		if got := strings.Join(wrong, ", "); got != tt.wrong || seen == 0 {
			t.Errorf("%s: found %q of %d, want %q", tt.text, got, seen, tt.wrong)
		}
	}
}

// Peers use the paths of both versions. The proxies do not pass on the operators' pages.
func TestTheProxiesPassEveryEndpoint(t *testing.T) {
	endpoints := []string{"/v1/server", "/v1/client", "/v2/server", "/v2/client"}
	m := regexp.MustCompile(`location ~ (\S+) \{`).FindStringSubmatch(deployFile(t, "proxies/nginx.conf"))
	if m == nil {
		t.Fatal("nginx.conf has no location for the endpoints")
	}
	nginx := regexp.MustCompile(m[1])
	for _, e := range endpoints {
		if !nginx.MatchString(e) {
			t.Errorf("nginx.conf does not pass %s", e)
		}
	}
	if nginx.MatchString("/metrics") {
		t.Error("nginx.conf passes /metrics")
	}
	for name, rule := range map[string]string{"proxies/haproxy.cfg": "unless { path ", "proxies/Caddyfile": "@peers path "} {
		if want := rule + strings.Join(endpoints, " "); !strings.Contains(deployFile(t, name), want) {
			t.Errorf("%s lacks %q", name, want)
		}
	}
}
