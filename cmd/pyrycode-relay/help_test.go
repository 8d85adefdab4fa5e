package main

import (
	"io"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// shortHelp is the number of lines that the first tier of the help may have: two screens.
const shortHelp = 80

func TestTheFirstTierOfTheHelpIsShortAndLeadsToTheSecond(t *testing.T) {
	for _, args := range [][]string{{"help"}, {"--help"}, {"-h"}, {"serve", "--help"}, {"check", "--help"}, {"install", "--help"}} {
		got := call(t.Context(), nil, args...)
		if n := strings.Count(got.stdout, "\n"); got.code != done || n > shortHelp || n < 5 {
			t.Errorf("%v: %d, %d lines; want at most %d", args, got.code, n, shortHelp)
		}
		if args[0] != "install" && !strings.Contains(got.stdout, "pyrycode-relay help --all") {
			t.Errorf("%v does not name the second tier", args)
		}
		for line := range strings.Lines(got.stdout) {
			if n := len([]rune(line)); n > helpWidth+1 {
				t.Errorf("%v has a line of %d columns: %s", args, n, line)
			}
		}
	}
	all := call(t.Context(), nil, "help", "--all").stdout
	for _, o := range config.Options() {
		if want := "--" + o.Name; !o.Secret && !strings.Contains(all, "\n  "+want) {
			t.Errorf("help --all does not have %s", want)
		}
	}
}

func TestTheHelpKnowsEachTopic(t *testing.T) {
	for _, topic := range topics(newCommand(nil, io.Discard).root) {
		if got := call(t.Context(), nil, "help", topic); got.code != done || got.stdout == "" || got.stderr != "" {
			t.Errorf("help %s: %+v", topic, got)
		}
	}
	for _, tt := range []struct {
		args []string
		want []string
		not  string
	}{
		{[]string{"help", "grace"}, []string{"--grace=30s", "$PYRYCODE_RELAY_GRACE"}, "--linger"},
		{[]string{"help", "--grace"}, []string{"--grace=30s"}, "--linger"},
		{[]string{"help", "Limits"}, []string{"--max-phones", "--burst"}, "--grace"},
		{[]string{"help", "cluster-secret"}, []string{"PYRYCODE_RELAY_CLUSTER_SECRET"}, "--cluster-secret"},
		{[]string{"help", "log-level"}, []string{"--log-level=debug|info|warn|error"}, "--log-format"},
		{[]string{"help", "probe"}, []string{"--role=both|binary|phone"}, "--grace"},
	} {
		got := call(t.Context(), nil, tt.args...)
		for _, w := range tt.want {
			if !strings.Contains(got.stdout, w) {
				t.Errorf("%v has no %s:\n%s", tt.args, w, got.stdout)
			}
		}
		if strings.Contains(got.stdout, tt.not) {
			t.Errorf("%v has %s", tt.args, tt.not)
		}
	}
}
