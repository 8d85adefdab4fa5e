package daemon

import (
	"go/ast"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// logKeys has every key of log records: first those of the protocol, then those of the
// process. No peer can choose a value of the second kind.
var logKeys = []string{
	"server_id", "conn_id", "binary_conn_id", "device_name", "remote", "binary_version", "close_code", "err", "path", "from", "to", "token_fp", "duration", "fcm_message_id",
	"class", "count",

	"version", "revision", "go", "listen", "metrics_listen", "tls", "server", "signal",
	"max_conns", "max_pending", "max_conns_per_address", "max_phones", "rate", "burst", "phone_message", "binary_message",
	"grace", "conflict_probe", "heartbeat", "drain", "files", "needed", "used", "limit",
	"binaries", "phones", "in_grace", "at_most", "spread", "why", "sockets_open", "requests_open", "left",
	"options", "names", "not_after", "project", "wakes_open", "claims_open", "have_one", "next",
	"node", "name", "claims", "etcd", "session", "address", "access", "access_entries",
	"action", "what", "by", "outcome",
}

func TestLogKeysAreAClosedSet(t *testing.T) {
	seen := 0
	goFiles(t, func(name string, file *ast.File) {
		where := strings.SplitN(name, "/", 3)
		if strings.HasSuffix(name, "_test.go") || where[0] != "internal" || !slices.Contains([]string{"cluster", "config", "daemon", "front", "lifecycle", "push", "relay"}, where[1]) {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			f, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			for _, k := range keysOf(f, call.Args) {
				seen++
				if !slices.Contains(logKeys, k) {
					t.Errorf("%s logs with the key %q, which is not in the set", name, k)
				}
			}
			return true
		})
	})
	if seen < 40 {
		t.Errorf("only %d keys seen", seen)
	}
}

// keysOf is the keys that a call logs with.
func keysOf(f *ast.SelectorExpr, args []ast.Expr) (keys []string) {
	first := -1
	switch f.Sel.Name {
	case "Debug", "Info", "Warn", "Error":
		first = 1
	case "With":
		first = 0
	case "String", "Int", "Duration", "Any", "Bool", "Time":
		if pkg, ok := f.X.(*ast.Ident); ok && pkg.Name == "slog" {
			return literal(args[0])
		}
	}
	for i := first; first >= 0 && i < len(args); i += 2 {
		keys = append(keys, literal(args[i])...)
	}
	return keys
}

func literal(e ast.Expr) []string {
	if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
		s, _ := strconv.Unquote(l.Value)
		return []string{s}
	}
	return nil
}
