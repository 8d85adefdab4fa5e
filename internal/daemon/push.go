package daemon

import (
	"log/slog"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/push"
)

// newPush makes what sends push wakes, or only counts them if push is off.
// The configuration has been checked.
func newPush(cfg config.Config, log *slog.Logger) (*push.Sender, error) {
	a, err := cfg.Account()
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
	p.log.Info("push is off: every push wake is dropped; " + config.EnvName("fcm-credentials") + " turns it on")
}
