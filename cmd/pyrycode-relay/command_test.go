package main

import (
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// samples has a value for each option of serve that is not its default.
var samples = map[string]string{
	"listen": "127.0.0.1:1", "metrics-listen": "127.0.0.1:2", "allowed-origins": "https://a.example,https://b.example:8443",
	"insecure": "true", "web.config.file": "/w.yml", "allow-root": "true", "trusted-proxies": "10.0.0.0/8,192.0.2.7", "proxy-protocol": "true",
	"domain": "relay.example.com", "tls-cert": "/c.pem", "tls-key": "/k.pem", "acme-dir": "/a", "state-dir": "/s", "acme-email": "a@example.com",
	"acme-directory": "https://acme.example.com/directory", "http-listen": "127.0.0.1:3",
	"max-pending": "31", "max-pending-per-address": "32", "memory-limit": "1GiB",
	"max-conns": "11", "max-conns-per-address": "12", "max-phones": "13", "rate": "0.5", "burst": "14",
	"phone-message": "2KiB", "binary-message": "3KiB", "fragments": "15", "phone-outbox": "5MiB", "binary-outbox": "3MiB",
	"grace": "16s", "conflict-probe": "17s", "heartbeat": "18s", "message-timeout": "19s", "write-timeout": "20s",
	"room-timeout": "21s", "linger": "22s", "drain-wait": "4s", "drain": "5s", "drain-spread": "3s", "fcm-credentials": "@/f.json", "fcm-endpoint": "https://fcm.example.com",
	"cluster": "https://10.0.0.1:2379,https://10.0.0.2:2379", "cluster-user": "relay", "cluster-password": "word", "cluster-ca": "/ca.pem", "cluster-cert": "/c.pem", "cluster-key": "/k.pem", "cluster-embedded": "true",
	"cluster-name": "relay-1", "cluster-listen": "127.0.0.1:6", "cluster-peers": "10.0.0.1:6222,10.0.0.2:6222", "cluster-secret": "word", "cluster-advertise": "relay-1:6", "cluster-dir": "/c", "cluster-fsync": "false",
	"access": "list", "access-file": "/access", "access-url": "https://users.example.com/relay", "access-url-fail": "last", "access-url-timeout": "2s", "access-url-phones": "true",
	"log-format": "json", "log-level": "warn", "log-server-ids": "full", "log-key-file": "log-key", "metrics-hosts": "relay.internal,prometheus",
}

// parsed returns the configuration from arguments and environment.
func parsed(t *testing.T, environ []string, args ...string) config.Config {
	t.Helper()
	c := newCommand(environ, io.Discard)
	s, lines := c.read(args)
	if s.Options != &c.Serve || lines != nil {
		t.Fatalf("%v with %v: command %q, %s", args, environ, s.Command.Name(), lines)
	}
	return c.Serve.Config
}

// read is parsed without validation, because most options are refused without others.
func read(t *testing.T, environ []string, args ...string) config.Config {
	t.Helper()
	c := newCommand(environ, io.Discard)
	s, err := cli.Parse(c.root, withCommand(args))
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	c.env.resolve(s.Command.Flags())
	if err := cli.Invalid(s.Command); err != nil {
		t.Fatalf("%v with %v: %v", args, environ, err)
	}
	return c.Serve.Config
}

func TestWithoutArgumentsTheDefaultsRun(t *testing.T) {
	want := config.Default()
	got := parsed(t, nil)
	if len(got.AllowedOrigins) == 0 {
		got.AllowedOrigins = nil
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestFlagEnvironmentAndFileAreTheSame(t *testing.T) {
	for _, o := range config.Options() {
		value, ok := samples[o.Name]
		if !ok {
			t.Errorf("--%s has no sample in this test", o.Name)
			continue
		}
		env := config.EnvName(o.Name) + "=" + value
		file := filepath.Join(t.TempDir(), "relay.yml")
		if err := os.WriteFile(file, []byte("# all there is\n"+o.Name+": "+strconv.Quote(value)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		byFlag, byEnv := read(t, nil, "--"+o.Name+"="+value), read(t, []string{env}, "serve")
		if !reflect.DeepEqual(byFlag, byEnv) {
			t.Errorf("--%s=%s gives %+v\n%s gives %+v", o.Name, value, byFlag, env, byEnv)
		}
		if byFile := read(t, nil, "--config", file); !reflect.DeepEqual(byFile, byFlag) {
			t.Errorf("--%s=%s gives %+v\nin a file it gives %+v", o.Name, value, byFlag, byFile)
		}
		if byFile := read(t, []string{"PYRYCODE_RELAY_CONFIG=" + file}); !reflect.DeepEqual(byFile, byFlag) {
			t.Errorf("a file that a variable names gives %+v; want %+v", byFile, byFlag)
		}
		if reflect.DeepEqual(byFlag, read(t, nil)) {
			t.Errorf("--%s=%s changes nothing", o.Name, value)
		}
		if both := read(t, []string{config.EnvName(o.Name) + "=nonsense"}, "--"+o.Name+"="+value); !reflect.DeepEqual(both, byFlag) {
			t.Errorf("--%s does not win over its variable", o.Name)
		}
		if empty := read(t, []string{config.EnvName(o.Name) + "="}); !reflect.DeepEqual(empty, read(t, nil)) {
			t.Errorf("%s, empty, is not the default", config.EnvName(o.Name))
		}
	}
}

func TestTheHelpHasUnitDefaultAndVariableOfEachFlag(t *testing.T) {
	seen := make(map[string]string)
	for _, cmd := range cli.Leaves(newCommand(nil, io.Discard).root) {
		_, path, _ := strings.Cut(cmd.CommandPath(), " ")
		help := call(t.Context(), nil, append(append([]string{"help"}, strings.Fields(path)...), "--all")...)
		flat := strings.Join(strings.Fields(help.stdout), " ")
		for _, o := range cli.OptionsOf(cmd) {
			if o.Unit == "" {
				t.Errorf("%s --%s has no unit", path, o.Name)
			}
			if prefix := config.EnvPrefix + "PROBE_"; (path == "probe") != strings.HasPrefix(o.Env, prefix) {
				t.Errorf("%s --%s: its variable is %s; those of probe, and no others, begin with %s", path, o.Name, o.Env, prefix)
			}
			if other, ok := seen[o.Env]; ok && other != o.Name {
				t.Errorf("%s is the variable of --%s and of --%s", o.Env, o.Name, other)
			}
			seen[o.Env] = o.Name
			def := o.Default
			if def == "" {
				def = "none"
			}
			want := "(" + o.Unit + "; default " + def + "; $" + o.Env + ")"
			if o.Secret { // it is no flag, and has no default
				want = o.Env + " " + o.Help + " (" + o.Unit + ")"
			}
			if help.code != 0 || !strings.Contains(flat, want) {
				t.Errorf("help %s returns %d and has no %q", path, help.code, want)
			}
		}
	}
	if len(seen) < len(samples) {
		t.Errorf("only %d flags seen", len(seen))
	}
}

func TestInvalidArgumentsAndVariablesReturn2(t *testing.T) {
	for _, tt := range []struct {
		name    string
		environ []string
		args    []string
		want    string
	}{
		{"not a time", nil, []string{"--grace", "soon"},
			`pyrycode-relay: --grace "soon": must be a time with its unit; for example 30s, 1m30s or 500ms`},
		{"a time without a unit", []string{"PYRYCODE_RELAY_DRAIN=10"}, nil,
			`pyrycode-relay: PYRYCODE_RELAY_DRAIN="10": must be a time with its unit; for example 30s, 1m30s or 500ms`},
		{"not a number", []string{"PYRYCODE_RELAY_MAX_CONNS=many"}, nil,
			`pyrycode-relay: PYRYCODE_RELAY_MAX_CONNS="many": must be a whole number; for example 1000`},
		{"not a rate", nil, []string{"--rate=fast"},
			`pyrycode-relay: --rate "fast": must be a number; for example 20 or 0.5`},
		{"a secret as a flag", nil, []string{"--fcm-credentials", "CANARY"},
			`pyrycode-relay: 2 problems
  --fcm-credentials (withheld): must be one JSON object with only strings as values; give the service account's JSON from the Firebase console, or @ and the path of a file with it
  --fcm-credentials (withheld): must come from the environment, as PYRYCODE_RELAY_FCM_CREDENTIALS; it is a secret: other users can see a command line, and files are copied about`},
		{"a secret that is not valid", []string{`PYRYCODE_RELAY_FCM_CREDENTIALS={"type":"CANARY"}`}, nil,
			`pyrycode-relay: PYRYCODE_RELAY_FCM_CREDENTIALS=(withheld): must have a field type that is "service_account"; give the service account's JSON from the Firebase console, or @ and the path of a file with it`},
		{"a secret in a missing file", []string{"PYRYCODE_RELAY_FCM_CREDENTIALS=@/nowhere/f.json"}, nil,
			`pyrycode-relay: PYRYCODE_RELAY_FCM_CREDENTIALS=(withheld): must name a file that can be read ("/nowhere/f.json": no such file or directory); give the service account's JSON from the Firebase console, or @ and the path of a file with it`},
		{"not a size", []string{"PYRYCODE_RELAY_PHONE_MESSAGE=1kb"}, nil,
			`pyrycode-relay: PYRYCODE_RELAY_PHONE_MESSAGE="1kb": must be a size in bytes, KiB, MiB or GiB; for example 262144 or 256KiB`},
		{"a variable outside its range", []string{"PYRYCODE_RELAY_GRACE=0s"}, nil,
			`pyrycode-relay: PYRYCODE_RELAY_GRACE="0s": must be from 1ms to 1h; the default is 30s`},
		{"a negative value", nil, []string{"--drain", "-1s"},
			`pyrycode-relay: --drain "-1s": must be from 0s to 1h; the default is 10s`},
		{"several problems", []string{"PYRYCODE_RELAY_GRACE=0s", "PYRYCODE_RELAY_METRIC_LISTEN=x", "PYRYCODE_RELAY_QWERTZ=1"}, []string{"serve", "--burst", "x", "--log-level", "loud"},
			`pyrycode-relay: 5 problems
  --burst "x": must be a whole number; for example 1000
  --log-level "loud": must be debug, info, warn or error; the default is info
  PYRYCODE_RELAY_GRACE="0s": must be from 1ms to 1h; the default is 30s
  PYRYCODE_RELAY_METRIC_LISTEN: no option has this environment variable; did you mean PYRYCODE_RELAY_METRICS_LISTEN?
  PYRYCODE_RELAY_QWERTZ: no option has this environment variable; pyrycode-relay help --all lists them`},
		{"an unknown flag", nil, []string{"serve", "--grce", "1s"},
			`pyrycode-relay: unknown flag --grce; did you mean --grace? pyrycode-relay help --all lists the options`},
		{"an unknown flag without a command", nil, []string{"--grce", "1s"},
			`pyrycode-relay: unknown flag --grce; did you mean --grace? pyrycode-relay help --all lists the options`},
		{"an unknown flag that resembles no other", nil, []string{"serve", "--frobnicate"},
			`pyrycode-relay: unknown flag --frobnicate; pyrycode-relay help --all lists the options`},
		{"a flag with one dash", nil, []string{"serve", "-grace=5s"},
			`pyrycode-relay: unknown flag -grace; did you mean --grace, with two dashes? pyrycode-relay help --all lists the options`},
		{"a flag of another command", nil, []string{"serve", "--dry-run"},
			`pyrycode-relay: unknown flag --dry-run, which is an option of install and not of serve; pyrycode-relay help --all lists the options`},
		{"an unknown flag of another command", nil, []string{"probe", "--phons", "3"},
			`pyrycode-relay: unknown flag --phons; did you mean --phones? pyrycode-relay probe --help lists what there is`},
		{"an option without its dashes", nil, []string{"serve", "grace=5s"},
			`pyrycode-relay: unexpected argument grace=5s; did you mean --grace=5s? pyrycode-relay help --all lists the options`},
		{"a command behind an option", nil, []string{"--grace", "5s", "check"},
			`pyrycode-relay: unexpected argument check: the command must be the first argument, pyrycode-relay check …; pyrycode-relay help --all lists the options`},
		{"a command behind another", nil, []string{"serve", "check"},
			`pyrycode-relay: unexpected argument check: the command must be the first argument, pyrycode-relay check …; pyrycode-relay help --all lists the options`},
		{"an unknown topic of the help", nil, []string{"help", "grce"},
			`pyrycode-relay help: no topic "grce"; did you mean grace? a topic is a command, a group of options, or an option; pyrycode-relay help lists the commands and groups`},
		{"an unknown shell", nil, []string{"completion", "bsh"},
			`pyrycode-relay: unknown command "bsh"; did you mean completion bash? pyrycode-relay completion --help lists what there is`},
		{"a domain that is none", nil, []string{"install", "--domain", "relay"},
			`pyrycode-relay: --domain "relay": must be a host name and nothing else, in the form that clients send; for example relay.example.com, or xn--bcher-kva.example for bücher.example`},
		{"an unknown command", nil, []string{"sevre"},
			`pyrycode-relay: unknown command "sevre"; did you mean serve? pyrycode-relay help lists the commands`},
		{"an unknown command with an option", nil, []string{"healthchek", "--live"},
			`pyrycode-relay: unknown command "healthchek"; did you mean healthcheck? pyrycode-relay help lists the commands`},
		{"an unknown command that resembles no other", nil, []string{"frobnicate"},
			`pyrycode-relay: unknown command "frobnicate"; pyrycode-relay help lists the commands`},
		{"an argument that serve does not have", nil, []string{"serve", "now"},
			`pyrycode-relay: unexpected argument "now"; pyrycode-relay help --all lists the options`},
		{"a flag without its value", nil, []string{"serve", "--grace"},
			`pyrycode-relay: --grace: its value is missing; pyrycode-relay help --all lists the options`},
		{"a flag of text without its value", nil, []string{"--log-level"},
			`pyrycode-relay: --log-level: its value is missing; pyrycode-relay help --all lists the options`},
		{"probing over http", nil, []string{"probe", "--relay", "http://127.0.0.1:8080"},
			`pyrycode-relay: --relay "http://127.0.0.1:8080": must be a URL that begins with ws:// or wss:// and names a host; for example ws://127.0.0.1:8080`},
		{"probing with nonsense", []string{"PYRYCODE_RELAY_PROBE_COUNT=0"}, []string{"probe", "--phones=0", "--timeout=0s", "--hold=-1s", "--role=both!", "--server-id=a\nb"},
			`pyrycode-relay: 6 problems
  --role "both!": must be both, binary or phone; did you mean both?
  --timeout "0s": must be more than 0s; the default is 5s
  PYRYCODE_RELAY_PROBE_COUNT="0": must be 1 or more; the default is 1
  --phones "0": must be 1 or more; the default is 1
  --server-id "a\nb": must have at most 256 bytes and no control characters; without it a random one is used
  --hold "-1s": must be 0s or more; the default is 0s`},
		{"a phone without a server-id", nil, []string{"probe", "--role", "phone"},
			`pyrycode-relay: --server-id "": must be given with --role phone; it is the one that the binary has`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := call(t.Context(), tt.environ, tt.args...)
			if got.code != refused || got.stderr != tt.want+"\n" || got.stdout != "" {
				t.Errorf("got %d, stdout %q, stderr\n%swant %d,\n%s", got.code, got.stdout, got.stderr, refused, tt.want)
			}
		})
	}
}

func TestHelpReturns0(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"-h"}, {"probe", "--help"}, {"--help", "--grace", "soon"}, {"help"}, {"help", "probe"}, {"help", "--all"}, {"help", "serve", "--all"}} {
		if got := call(t.Context(), nil, args...); got.code != 0 || !strings.HasPrefix(got.stdout, "Usage: pyrycode-relay") || got.stderr != "" {
			t.Errorf("%v: %d, %q, %q", args, got.code, got.stdout, got.stderr)
		}
	}
}
