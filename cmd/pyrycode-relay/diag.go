package main

import (
	"archive/zip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// diag is the diag command. It writes all pages of a running relay into one file, for a
// bug report.
type diag struct {
	operator

	Out string        `of:"diag" placeholder:"FILE" unit:"file" group:"The file" help:"Where to put it; it must not be there yet. None: pyrycode-relay-diag- and the time, here. A single -: standard output, for containers that can write nowhere."`
	CPU time.Duration `of:"diag" name:"cpu" unit:"time" group:"The file" help:"How long to watch where the processor's time goes. 0s: not at all."`
}

// check returns all problems of the options.
func (d *diag) check() []config.Problem {
	all := problems(d.operator.check())
	all.unless(d.CPU == 0 || d.CPU >= time.Second && d.CPU <= time.Minute, "cpu", d.CPU, "must be from 1s to 1m, or 0s", "for example 10s")
	return all
}

// pages returns the pages to fetch: the name in the file, the path, and the purpose.
func (d *diag) pages() [][3]string {
	all := [][3]string{
		{"config.json", "/debug/config", "every option that runs, and where it came from; secrets are withheld"},
		{"status.json", "/status.json", "what the status page shows"},
		{"metrics.txt", "/metrics", "all metrics"},
		{"healthz.json", "/healthz", "is it alive?"},
		{"readyz.txt", "/readyz", "should new connections come to it, and if not, why?"},
		{"check.txt", "/debug/check", "do the gauges agree with what is connected?"},
		{"log.txt", "/debug/log", "the last lines of the log, at most 256 KiB"},
		{"goroutines.txt", "/debug/pprof/goroutine?debug=2", "what each task does; without the values it works on"},
		{"heap.pprof", "/debug/pprof/heap", "what memory is used for: go tool pprof heap.pprof"},
	}
	if d.CPU > 0 {
		all = append(all, [3]string{"cpu.pprof", fmt.Sprintf("/debug/pprof/profile?seconds=%d", int(d.CPU.Seconds())), "where the processor's time goes: go tool pprof cpu.pprof"})
	}
	return all
}

// run writes the file and prints a list of its content. The error is one sentence.
func (d *diag) run(ctx context.Context, c invocation) (err error) {
	b, now, out := c.build, time.Now(), c.out
	a, err := d.asker(d.AnswerTimeout + d.CPU)
	if err != nil {
		return err
	}
	if err := a.private(ctx); err != nil {
		return err // do not write a file that has only errors
	}
	if d.Out == "-" {
		_, err := d.write(ctx, a, b, now, out)
		return err
	}
	name := d.Out
	if name == "" {
		name = "pyrycode-relay-diag-" + now.UTC().Format("20060102T150405Z") + ".zip"
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write the file: %w; --out names another", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(name) // an incomplete file is misleading
		}
	}()
	defer file.Close()
	list, err := d.write(ctx, a, b, now, file)
	if err == nil {
		err = cannotWrite(file.Close())
	}
	if err == nil {
		fmt.Fprintf(out, "%s\n%s", name, list)
	}
	return err
}

// cannotWrite returns err as a sentence, or nil if err is nil.
func cannotWrite(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cannot write the file: %w", err)
}

// write writes the file to out and returns a list of its content.
func (d *diag) write(ctx context.Context, a *asker, b daemon.Build, now time.Time, out io.Writer) (list string, err error) {
	z := zip.NewWriter(out)
	readme := new(strings.Builder)
	fmt.Fprintf(readme, "pyrycode-relay %s\nmade %s on %s/%s, asking %s\n\n", b, now.UTC().Format(time.RFC3339), runtime.GOOS, runtime.GOARCH, a.base)
	add := func(name, what string, text []byte) error {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: now})
		if err == nil {
			_, err = w.Write(text)
		}
		fmt.Fprintf(readme, "%-15s %s\n", name, what)
		return err
	}
	version, err := json.Marshal(b)
	if err != nil {
		return "", err
	}
	if err := add("version.json", "what program made this file; the relay's own version is in healthz.json", version); err != nil {
		return "", cannotWrite(err)
	}
	had := 0
	for _, p := range d.pages() {
		status, body, err := a.get(ctx, p[1])
		switch {
		case ctx.Err() != nil:
			return "", errInterrupted
		case err != nil:
			fmt.Fprintf(readme, "%-15s could not be had: %v\n", p[0], err)
			continue
		case status == http.StatusNotFound:
			fmt.Fprintf(readme, "%-15s this relay has no %s\n", p[0], p[1])
			continue
		case status != http.StatusOK:
			p[2] += fmt.Sprintf(" (answered HTTP %d)", status)
		}
		had++
		if err := add(p[0], p[2], body); err != nil {
			return "", cannotWrite(err)
		}
	}
	if had == 0 {
		return "", fmt.Errorf("the relay at %s has stopped answering", a.base)
	}
	told := readme.String()
	readme.WriteString("\nThere are no secrets in it and no frames, and no server-ids unless the relay runs\nwith --log-server-ids full. Addresses and names of devices are in log.txt.\n")
	w, err := z.Create("README.txt")
	if err == nil {
		_, err = io.WriteString(w, readme.String())
	}
	if err == nil {
		err = z.Close()
	}
	_, list, _ = strings.Cut(told, "\n\n")
	return list, cannotWrite(err)
}
