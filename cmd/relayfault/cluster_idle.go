package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/pyrycode/pyrycode-relay/internal/load"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// clusterIdle measures what idle server-ids cost the directory.
type clusterIdle struct {
	clusterFlags
	IDs int           `name:"ids" default:"30000" help:"Idle server-ids of all relays together."`
	For time.Duration `default:"10m" help:"Duration of the measurement."`
}

// Limits of clusterIdle.
const (
	mostIdleWrites = 5.0 // per second
	mostIdleCores  = 0.1 // of all etcd servers
)

// heldPerProcess is the number of connections of one process that holds ids. A process may
// often open 20,000 files.
const heldPerProcess = 15000

func (c *clusterIdle) run(e *load.Env) error {
	if c.IDs < c.Relays || c.For < time.Second || c.For > maxRun {
		return load.Usagef("--ids must be at least --relays, --for from 1s to %s", maxRun)
	}
	if err := load.EnoughFiles(max(c.IDs/c.Relays, min(c.IDs, heldPerProcess)) + 500); err != nil {
		return err
	}
	c.External = true // the processor time of servers in relays is not known
	// One address may hold nine tenths of a relay's connections, and all limits of a relay must fit
	// into 20,000 open files.
	t, err := newTrio(e.Ctx, c.clusterFlags, "--max-conns", fmt.Sprint(c.IDs/c.Relays*10/9+200), "--max-pending", "4096")
	if err != nil {
		return err
	}
	defer t.end()
	e.Progress.Show("%d binaries connect", c.IDs)
	h, err := startHolders(e.Ctx, t, c.IDs)
	if err != nil {
		return err
	}
	defer h.kill()
	load.Wait(e.Ctx, 10*time.Second) // the claims of the beginning are over
	before, err := t.etcd.cost(e.Ctx)
	if err != nil {
		return err
	}
	for end := time.Now().Add(c.For); time.Now().Before(end) && e.Ctx.Err() == nil; {
		e.Progress.Show("idle for %.0f of %.0f s", (c.For - time.Until(end)).Seconds(), c.For.Seconds())
		load.Wait(e.Ctx, min(time.Second, time.Until(end)))
	}
	after, err := t.etcd.cost(e.Ctx)
	if err != nil {
		return err
	}
	took := after.at.Sub(before.at).Seconds()
	r := &idleReport{IDs: c.IDs, Seconds: took, Writes: float64(after.index-before.index) / took, Cores: (after.cpu - before.cpu).Seconds() / took}
	if r.Fences, err = t.fences(); err != nil {
		return err
	}
	if r.Lost, err = h.end(); err != nil {
		return err
	}
	if err := e.Print(c.JSON, r); err != nil {
		return err
	}
	if r.Writes > mostIdleWrites || r.Cores >= mostIdleCores || r.Fences > 0 || r.Lost > 0 {
		return errors.New("a limit is exceeded")
	}
	return e.Ctx.Err()
}

// directoryCost is what the etcd servers have done until a time.
type directoryCost struct {
	at    time.Time
	index uint64        // entries of the log of raft: all writes, also of leases
	cpu   time.Duration // of all servers
}

// cost returns what the servers have done until now.
func (s *etcdServers) cost(ctx context.Context) (c directoryCost, err error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: s.endpoints(), DialTimeout: 5 * time.Second})
	if err != nil {
		return c, err
	}
	defer client.Close()
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	for i, cmd := range s.cmds {
		one, err := client.Status(ctx, s.endpoints()[i])
		if err != nil {
			return c, fmt.Errorf("status of etcd-%d: %w", i+1, err)
		}
		cpu, err := load.CPU(cmd.Process.Pid)
		if err != nil {
			return c, err
		}
		c.index, c.cpu = max(c.index, one.RaftAppliedIndex), c.cpu+cpu
	}
	c.at = time.Now()
	return c, nil
}

// fences returns the number of server-ids that the relays stopped to serve because the
// directory did not confirm their sessions.
func (t *trio) fences() (n int, err error) {
	for _, m := range t.members {
		var fence, session float64
		err := load.Scrape("http://"+m.private+"/metrics", map[string]*float64{
			`pyrycode_relay_cluster_claim_losses_total{reason="fence"}`:   &fence,
			`pyrycode_relay_cluster_claim_losses_total{reason="session"}`: &session,
		})
		if err != nil {
			return n, err
		}
		n += int(fence + session)
	}
	return n, nil
}

// idleReport is the result of clusterIdle.
type idleReport struct {
	IDs     int     `json:"ids"`
	Seconds float64 `json:"seconds"`
	Writes  float64 `json:"writes_per_second"`
	Cores   float64 `json:"cores_of_all_servers"`
	Fences  int     `json:"fences"`
	Lost    int     `json:"lost"`
}

// Table implements load.Report.
func (r *idleReport) Table(w io.Writer) {
	fmt.Fprintf(w, "%d idle server-ids for %.0f s\n", r.IDs, r.Seconds)
	fmt.Fprintf(w, "  writes to the directory   %8.2f per second; at most %.0f\n", r.Writes, mostIdleWrites)
	fmt.Fprintf(w, "  all etcd servers          %8.3f cores; less than %.1f\n", r.Cores, mostIdleCores)
	fmt.Fprintf(w, "  claims lost by a fence    %8d; must be 0\n", r.Fences)
	fmt.Fprintf(w, "  connections closed        %8d; must be 0\n", r.Lost)
}

// holdsAll is the line that clusterHold prints when all ids are connected.
const holdsAll = "connected"

// clusterHold holds idle server-ids until its input ends. It prints holdsAll, and at the end
// the number of connections that were closed.
type clusterHold struct {
	At    []string `required:"true" help:"Addresses of relays."`
	First int      `help:"The number of the first server-id."`
	IDs   int      `name:"ids" required:"true" help:"Server-ids."`
}

func (c *clusterHold) run(e *load.Env) error {
	var closed atomic.Int64
	var at []*load.Target
	for _, a := range c.At {
		to := targetAt(a)
		to.Buffer = load.IdleBuffer
		at = append(at, to)
	}
	var connecting errgroup.Group
	connecting.SetLimit(dialling)
	for i := c.First; i < c.First+c.IDs; i++ {
		connecting.Go(func() error {
			p, err := at[i%len(at)].Dial("/v1/server", fmt.Sprintf("idle-%d", i))
			if err != nil {
				return err
			}
			go func() { // ends with the process
				for {
					if _, err := p.Next(); err != nil {
						closed.Add(1)
						return
					}
				}
			}()
			return nil
		})
	}
	if err := connecting.Wait(); err != nil {
		return load.Hint(err)
	}
	fmt.Fprintln(e.Stdout, holdsAll)
	_, err := io.Copy(io.Discard, os.Stdin)
	fmt.Fprintln(e.Stdout, closed.Load())
	return err
}

// holdersReadyIn bounds the time until the ids of one process are connected.
const holdersReadyIn = 5 * time.Minute

// holder is a process of clusterHold.
type holder struct {
	*wstest.Process
	in   io.Closer
	said wstest.Log
}

type holders []*holder

// startHolders starts the processes, one after the other, and waits until all ids are
// connected.
func startHolders(ctx context.Context, t *trio, ids int) (all holders, err error) {
	defer func() {
		if err != nil {
			all.kill()
		}
	}()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var at []string
	for _, m := range t.members {
		at = append(at, m.listen)
	}
	for first := 0; first < ids; first += heldPerProcess {
		cmd := exec.Command(self, "cluster", "hold", "--at", strings.Join(at, ","),
			"--first", fmt.Sprint(first), "--ids", fmt.Sprint(min(heldPerProcess, ids-first)))
		h := new(holder)
		if h.in, err = cmd.StdinPipe(); err != nil {
			return all, err
		}
		h.Process, err = wstest.StartProcess(ctx, "a process that holds server-ids", cmd, &h.said, holdersReadyIn,
			func(line string) bool { return line == holdsAll })
		if err != nil {
			return all, err
		}
		all = append(all, h)
	}
	return all, nil
}

// end ends the processes and returns the number of connections that were closed before.
func (all holders) end() (closed int, err error) {
	for _, h := range all {
		h.in.Close()
		if err := h.Wait(); err != nil {
			return closed, fmt.Errorf("a process that holds server-ids: %w: %s", err, h.said.String())
		}
		_, count, _ := strings.Cut(h.said.String(), holdsAll)
		n := 0
		if _, err := fmt.Sscan(count, &n); err != nil {
			return closed, fmt.Errorf("a process that holds server-ids has printed %q: %w", h.said.String(), err)
		}
		closed += n
	}
	return closed, nil
}

// kill ends the processes.
func (all holders) kill() {
	var ending sync.WaitGroup
	for _, h := range all {
		ending.Go(h.End)
	}
	ending.Wait()
}
