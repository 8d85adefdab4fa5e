package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
)

// readTime limits the time to read one file. Only a file system that does not answer,
// or a pipe without a writer, takes so long.
var readTime = 10 * time.Second

// MaxFile is the longest file that options may name, in bytes: certificates,
// keys and the web configuration. Those are some kilobytes long.
const MaxFile = 1 << 20

// maxUnfinished bounds the attempts that have taken longer than readTime and
// have not ended. Each one costs a goroutine and a thread of the system.
const maxUnfinished = 64

// unfinished has the steps at which attempts hang after readTime, with the number of
// attempts at each. Another attempt that reaches one of these steps fails immediately.
// A file that hangs therefore costs one goroutine, and not one for each attempt.
//
// The name of a step contains the file that the kernel is asked about, not the name in
// the option. If a file that hangs is replaced, or a link to it is changed, the next
// attempt takes other steps.
var unfinished = struct {
	sync.Mutex
	steps map[string]int
	total int
}{steps: make(map[string]int)}

// errHangs is the error of an attempt that reaches a step at which another one hangs.
var errHangs = errors.New("an earlier attempt to read it has not ended; does its file system answer?")

// attempt is one call of inTime. The lock of unfinished guards its fields.
type attempt struct {
	at    string // the current step
	hangs bool   // counted in unfinished
	ended bool
}

// enter begins a step. It returns errHangs if another attempt hangs at that step, or if
// the caller of inTime has given up.
func (a *attempt) enter(step string) error {
	unfinished.Lock()
	defer unfinished.Unlock()
	if a.hangs || unfinished.steps[step] > 0 {
		a.leave()
		return errHangs
	}
	a.at = step
	return nil
}

// leave removes a from unfinished, which must be locked.
func (a *attempt) leave() {
	if !a.hangs {
		return
	}
	a.hangs = false
	unfinished.total--
	if unfinished.steps[a.at]--; unfinished.steps[a.at] == 0 {
		delete(unfinished.steps, a.at)
	}
}

// end records that a has ended.
func (a *attempt) end() {
	unfinished.Lock()
	defer unfinished.Unlock()
	a.leave()
	a.ended = true
}

// giveUp records that the caller no longer waits for a. It returns false if a has
// ended already.
func (a *attempt) giveUp() bool {
	unfinished.Lock()
	defer unfinished.Unlock()
	if a.ended {
		return false
	}
	a.hangs = true
	unfinished.total++
	unfinished.steps[a.at]++
	return true
}

// maxLinks is the number of symbolic links that find follows, as in Linux.
const maxLinks = 40

// find resolves name as the kernel does, one link after the other. It enters a step
// before each system call, because each call may hang. The last step is that of reading
// the file. If a part of the name cannot be resolved, such as a file that does not exist,
// find stops there. The error is errHangs.
func (a *attempt) find(name string) error {
	at, err := filepath.Abs(name)
	if err != nil {
		at = name
	}
	const slash = string(filepath.Separator)
	rest := strings.Split(at, slash)
	at = filepath.VolumeName(at) + slash
	rest[0] = ""
	id, odd := "", "" // the fileID of at, and the part that cannot be resolved
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		next := filepath.Join(at, part)
		if err := a.enter("find " + next + " in " + id); err != nil {
			return err
		}
		info, err := os.Lstat(next)
		if err != nil {
			odd = next
			break
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at, id = next, fileID(info)
			continue
		}
		target, err := os.Readlink(next)
		if links++; err != nil || links > maxLinks {
			odd = next
			break
		}
		id = fileID(info) + " to " + target
		if filepath.IsAbs(target) {
			at = filepath.VolumeName(target) + slash
			target = target[len(filepath.VolumeName(target)):]
		}
		rest = append(strings.Split(target, slash), rest...)
	}
	return a.enter("read " + id + " " + odd)
}

// ReadFile returns the content of a file of at most most bytes. It returns
// within ten seconds, whatever the file is. Only with pipes true may the file
// be something other than a regular file, such as a pipe: the content of a
// pipe can be read once, so a file that is read again must be a regular one.
//
// The error does not name the file.
func ReadFile(name string, most int64, pipes bool) ([]byte, error) {
	return inTime(name, func() ([]byte, error) { return readAll(name, most, pipes) })
}

// inTime calls read, which must read the file or directory name, and returns its
// results. It waits no longer than readTime. If read takes longer, read continues in
// the background, so it must change nothing.
func inTime[T any](name string, read func() (T, error)) (none T, err error) {
	unfinished.Lock()
	full := unfinished.total >= maxUnfinished
	unfinished.Unlock()
	if full {
		return none, fmt.Errorf("%d earlier attempts to read files have not ended; do their file systems answer?", maxUnfinished)
	}
	type result struct {
		value T
		err   error
	}
	done, a := make(chan result, 1), new(attempt)
	go func() {
		var r result
		if r.err = a.find(name); r.err == nil {
			r.value, r.err = read()
		}
		a.end()
		done <- r
	}()
	late := time.NewTimer(readTime)
	defer late.Stop()
	select {
	case r := <-done:
		return r.value, r.err
	case <-late.C:
	}
	if !a.giveUp() {
		r := <-done
		return r.value, r.err
	}
	return none, fmt.Errorf("it could not be read within %s; is it a pipe without a writer, or does its file system not answer?", cli.TextOf(readTime))
}

// readAll is ReadFile without the limit on its time.
func readAll(name string, most int64, pipes bool) ([]byte, error) {
	regular := func(info fs.FileInfo, err error) error {
		if err != nil {
			return pathReason(err)
		}
		if rule := notRegular(info); rule != "" {
			return errors.New(rule)
		}
		return nil
	}
	flags := os.O_RDONLY
	if !pipes {
		flags |= nonBlocking // if the file is replaced by a pipe now, the open does not wait
		if err := regular(os.Stat(name)); err != nil {
			return nil, err
		}
	}
	file, err := os.OpenFile(name, flags, 0)
	if err != nil {
		return nil, pathReason(err)
	}
	defer file.Close()
	if !pipes {
		if err := regular(file.Stat()); err != nil { // it was replaced after os.Stat
			return nil, err
		}
	}
	text, err := io.ReadAll(io.LimitReader(file, most+1))
	if err != nil {
		return nil, pathReason(err)
	}
	if int64(len(text)) > most {
		return nil, fmt.Errorf("it is longer than %d bytes", most)
	}
	return text, nil
}

// notRegular returns why a file cannot be read more than once, or "" if it can.
func notRegular(info fs.FileInfo) string {
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return ""
	case mode.IsDir():
		return "it is a directory"
	case mode&fs.ModeNamedPipe != 0:
		return "it is a pipe, which can be read only once; put the content into a regular file"
	}
	return "it is not a regular file"
}

// pathReason returns err without the path, which the caller names.
func pathReason(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
