package daemon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
)

// readTime bounds the reading of one file. Only a file system that does not
// answer, or a pipe that nobody writes to, takes so long.
var readTime = 10 * time.Second

// maxFile is the longest file that options may name, in bytes: certificates,
// keys and the web configuration. Those are some kilobytes long.
const maxFile = 1 << 20

// unfinished are the files and directories whose reading has taken longer than
// readTime and has not ended yet. Another reading of the same one fails
// immediately, so that a file that hangs costs one goroutine and not one for
// each attempt.
var unfinished = struct {
	sync.Mutex
	names map[string]bool
}{names: make(map[string]bool)}

// ReadFile returns the content of a file of at most most bytes. It returns
// within ten seconds, whatever the file is. Only with pipes true may the file
// be something other than a regular file, such as a pipe: the content of a
// pipe can be read once, so a file that is read again must be a regular one.
//
// The error does not name the file.
func ReadFile(name string, most int64, pipes bool) ([]byte, error) {
	return inTime(name, func() ([]byte, error) { return readAll(name, most, pipes) })
}

// inTime returns what read returns, which reads the file or directory name.
// It waits no longer than readTime. If read takes longer, read goes on alone,
// so it must change nothing.
func inTime[T any](name string, read func() (T, error)) (none T, err error) {
	unfinished.Lock()
	hangs := unfinished.names[name]
	unfinished.Unlock()
	if hangs {
		return none, errors.New("an earlier attempt to read it has not ended; does its file system answer?")
	}
	type result struct {
		value T
		err   error
	}
	done, ended := make(chan result, 1), false // unfinished guards ended
	go func() {
		value, err := read()
		unfinished.Lock()
		ended = true
		delete(unfinished.names, name)
		unfinished.Unlock()
		done <- result{value, err}
	}()
	late := time.NewTimer(readTime)
	defer late.Stop()
	select {
	case r := <-done:
		return r.value, r.err
	case <-late.C:
	}
	unfinished.Lock()
	hangs = !ended
	if hangs {
		unfinished.names[name] = true
	}
	unfinished.Unlock()
	if !hangs {
		r := <-done
		return r.value, r.err
	}
	return none, fmt.Errorf("it could not be read within %s; is it a pipe that nobody writes to, or does its file system not answer?", shortDuration(readTime))
}

// readAll is ReadFile without the bound on its time.
func readAll(name string, most int64, pipes bool) ([]byte, error) {
	if !pipes { // before it is opened: to open a pipe waits for its writer
		info, err := os.Stat(name)
		if err != nil {
			return nil, pathReason(err)
		}
		if rule := notRegular(info); rule != "" {
			return nil, errors.New(rule)
		}
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, pathReason(err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, most+1))
	if err != nil {
		return nil, pathReason(err)
	}
	if int64(len(text)) > most {
		return nil, fmt.Errorf("it is longer than %d bytes", most)
	}
	return text, nil
}

// notRegular says why a file cannot be read more than once; nothing if it can.
func notRegular(info fs.FileInfo) string {
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return ""
	case mode.IsDir():
		return "it is a directory"
	case mode&fs.ModeNamedPipe != 0:
		return "it is a pipe, whose content can be read only once; put the content into a regular file"
	}
	return "it is no regular file"
}

// pathReason returns err without the path, which the caller names.
func pathReason(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
