package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// exampleText returns the output of check --example.
func exampleText(t *testing.T) string {
	t.Helper()
	got := call(t.Context(), nil, "check", "--example")
	if got.code != done || got.stderr != "" {
		t.Fatalf("check --example: %+v", got)
	}
	return got.stdout
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "relay.yml")
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCheckAcceptsTheExample(t *testing.T) {
	free := []string{"--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"}
	text := exampleText(t)
	got := call(t.Context(), nil, append([]string{"check", "--config", writeConfig(t, text)}, free...)...)
	if got.code != done || !strings.Contains(got.stdout, "The relay would run.") {
		t.Errorf("check of the example: %+v", got)
	}
}

// Each option stands in the example once, with its default behind a hash.
func TestTheExampleHasEachOptionAndItsDefault(t *testing.T) {
	text := exampleText(t)
	for _, o := range config.Options() {
		n := len(regexp.MustCompile(`(?m)^#`+regexp.QuoteMeta(o.Name)+`:`).FindAllString(text, -1))
		if o.Secret {
			if n > 0 || !strings.Contains(text, config.EnvName(o.Name)) {
				t.Errorf("the secret %s is in the example as an option, or its variable is not", o.Name)
			}
			continue
		}
		if n != 1 {
			t.Errorf("%s stands in the example %d times", o.Name, n)
		}
	}
	active := regexp.MustCompile(`(?m)^#([a-z][a-z0-9.-]*: )`).ReplaceAllString(text, "$1")
	want := config.Default()
	got := read(t, nil, "--config", writeConfig(t, active))
	for _, c := range []*config.Config{&want, &got} {
		for i := range reflect.TypeFor[config.Config]().NumField() {
			if v := reflect.ValueOf(c).Elem().Field(i); v.Kind() == reflect.Slice && v.Len() == 0 {
				v.SetZero()
			}
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("without the hashes the example is\n%+v\nwant the defaults\n%+v", got, want)
	}
}

// The uses at the head of the example are configurations that check accepts.
func TestCheckAcceptsTheUsesOfTheExample(t *testing.T) {
	for _, u := range exampleUse {
		c := read(t, nil, "--config", writeConfig(t, u.lines+"\n"))
		c.ACMEDir = strings.Replace(c.ACMEDir, "/var/lib", t.TempDir(), 1)
		c.AllowRoot = true
		for _, p := range c.Check() {
			t.Errorf("%s %v", u.title, p)
		}
	}
}
