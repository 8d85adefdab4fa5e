package etcdserver

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// repeatAfter is the time in which a warning of etcd with the same text is logged once.
const repeatAfter = time.Minute

// zapLogger returns a logger for etcd that writes its errors to log, and its warnings at level
// DEBUG, except the one about a slow disk. It passes the text of a failure after which the
// member cannot go on to failed. Etcd reports such a failure with the level Fatal, which
// normally ends the process.
func zapLogger(log *slog.Logger, failed func(string)) *zap.Logger {
	c := &core{log: log, failed: failed, last: make(map[string]time.Time)}
	return zap.New(c, zap.WithFatalHook(stopGoroutine{}))
}

// stopGoroutine ends the goroutine that has logged a fatal failure. The process goes on, and
// the owner of the member decides about it.
type stopGoroutine struct{}

func (stopGoroutine) OnWrite(*zapcore.CheckedEntry, []zapcore.Field) { runtime.Goexit() }

// core passes records of etcd to a slog.Logger.
type core struct {
	log    *slog.Logger
	failed func(string)
	fields []zapcore.Field

	mu   sync.Mutex
	last map[string]time.Time // by text of a warning: when it was logged. Etcd has some 300 texts
}

func (c *core) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

func (c *core) With(f []zapcore.Field) zapcore.Core {
	return &core{log: c.log, failed: c.failed, fields: append(c.fields[:len(c.fields):len(c.fields)], f...), last: make(map[string]time.Time)}
}

func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	text := e.Message + details(append(c.fields[:len(c.fields):len(c.fields)], fields...))
	if e.Level >= zapcore.FatalLevel {
		c.log.Error("the directory's server has failed", "etcd", text)
		c.failed(text)
		return nil
	}
	c.mu.Lock()
	repeated := time.Since(c.last[e.Message]) < repeatAfter
	if !repeated {
		c.last[e.Message] = time.Now()
	}
	c.mu.Unlock()
	if !repeated {
		level := slog.LevelDebug // most warnings are about the start, or repeat what the relay says
		if e.Level > zapcore.WarnLevel || strings.HasPrefix(e.Message, "slow fdatasync") {
			level = slog.LevelWarn
		}
		c.log.Log(context.Background(), level, "a message of the directory's server", "etcd", text)
	}
	return nil
}

func (c *core) Sync() error { return nil }

// details returns the fields as text, cut at a length that suits a log.
func details(fields []zapcore.Field) string {
	enc := zapcore.NewMapObjectEncoder()
	var b strings.Builder
	for _, f := range fields {
		if f.Key == "stacktrace" {
			continue
		}
		f.AddTo(enc)
		if v, ok := enc.Fields[f.Key]; ok {
			fmt.Fprintf(&b, "; %s %v", f.Key, v)
		}
	}
	return cut(b.String(), 500)
}

// cut returns at most n bytes of s.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
