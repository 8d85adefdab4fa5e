package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/cluster/directory"
)

// twoMembers is a directory.Connection of which only the members are used.
type twoMembers struct{ directory.Connection }

func (twoMembers) Members(context.Context) ([]directory.Member, error) {
	return []directory.Member{{Name: "relay-1", Address: "10.0.0.1:6222", Votes: true, Started: true, Leads: true, Answers: true}, {Address: "10.0.0.2:6222"}}, nil
}

func (twoMembers) Remove(_ context.Context, name string) (directory.Member, error) {
	if name != "relay-2" {
		return directory.Member{}, errors.New(name + " is running")
	}
	return directory.Member{Name: name}, nil
}

func TestOperatorsListAndRemoveMembers(t *testing.T) {
	log := new(strings.Builder)
	for _, tt := range []struct {
		cluster *clustered
		content string // of a removal; empty: a list
		status  int
		want    string
	}{
		{&clustered{directory: twoMembers{}}, "", 200, `{"members":[{"name":"relay-1","address":"10.0.0.1:6222","votes":true,"started":true,"leads":true,"answers":true},{"name":""`},
		{nil, "", 409, "this relay is in no cluster"},
		{&clustered{directory: twoMembers{}}, `{"what":"relay-2","why":"gone"}`, 200, `{"what":"relay-2"`},
		{&clustered{directory: twoMembers{}}, `{"what":"relay-1"}`, 409, "relay-1 is running"},
		{&clustered{directory: twoMembers{}}, `{}`, 400, "what: must be the name or the address of a member"},
		{nil, `{"what":"relay-1"}`, 409, "this relay is in no cluster"},
	} {
		audit, err := newAudit(slog.New(slog.NewTextHandler(log, nil)), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		o := &operations{cluster: tt.cluster, audit: audit, mayChange: func() error { return nil }, asks: func() bool { return false }}
		w := httptest.NewRecorder()
		if tt.content == "" {
			o.serveMembers(w, httptest.NewRequest(http.MethodGet, MembersPath, nil))
		} else {
			r := httptest.NewRequest(http.MethodPost, RemoveMemberPath, strings.NewReader(tt.content))
			r.Header.Set(OperatorHeader, "1")
			o.handler(actionRemoveMember, o.removeMember)(w, r)
		}
		body, _ := io.ReadAll(w.Result().Body)
		if w.Code != tt.status || !strings.HasPrefix(string(body), tt.want) {
			t.Errorf("%q: %d %s; want %d %s", tt.content, w.Code, body, tt.status, tt.want)
		}
	}
	if got := log.String(); strings.Count(got, "operator_action") != 1 || !strings.Contains(got, "action=remove_member what=relay-2 why=gone") {
		t.Errorf("the log has\n%s", got)
	}
}
