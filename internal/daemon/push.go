package daemon

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/push"
)

// maxCredentials is how long a service account's file may be, in bytes; they
// have about 2,400.
const maxCredentials = 64 << 10

// credentials reads --fcm-credentials; nil if there are none. An error says
// nothing of what they are.
func (c Config) credentials() (*push.Credentials, error) {
	if c.FCMCredentials == "" {
		return nil, nil
	}
	text := []byte(c.FCMCredentials)
	if name, ok := strings.CutPrefix(c.FCMCredentials, "@"); ok {
		var err error
		if text, err = config.ReadFile(name, maxCredentials, false); err != nil {
			return nil, fmt.Errorf("must name a file that can be read (%q: %w)", name, err)
		}
	}
	return push.ParseCredentials(text)
}

// push looks at what push wakes are sent with.
func (v *validator) push(c Config) {
	if _, err := c.credentials(); err != nil {
		v.add("fcm-credentials", c.FCMCredentials, err.Error(),
			"give the service account's JSON as the Firebase console hands it out, or @ and the path of a file that has it")
	}
	if !push.Endpoint(c.FCMEndpoint) || strings.HasSuffix(c.FCMEndpoint, "/") {
		v.add("fcm-endpoint", c.FCMEndpoint, "must be an https:// URL without a slash at its end, or an http:// one on this machine",
			"the default is "+v.defaults["fcm-endpoint"])
	}
}

// account is credentials of a configuration that has been checked.
func (c Config) account() (*push.Credentials, error) {
	a, err := c.credentials()
	if err != nil {
		return nil, &ConfigError{Problems: []Problem{{Option: "fcm-credentials", Rule: err.Error()}}} // the file has changed since
	}
	return a, nil
}

// newPush makes what sends push wakes, or only counts them if push is off.
// The configuration has been checked.
func newPush(cfg Config, log *slog.Logger) (*push.Sender, error) {
	a, err := cfg.account()
	if err != nil {
		return nil, err
	}
	s := push.New(push.Config{Endpoint: cfg.FCMEndpoint, Log: log})
	s.Use(a)
	return s, nil
}

// sayPush says once whether there is push.
func (p *process) sayPush() {
	if project := p.push.Project(); project != "" {
		p.log.Info("push is on", "project", project)
		return
	}
	p.log.Info("push is off: every push wake is dropped; " + EnvName("fcm-credentials") + " turns it on")
}
