package main

import (
	"context"
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// clusterRemove is the command cluster remove.
type clusterRemove struct {
	operator

	Why string `of:"cluster" name:"why" unit:"text" group:"Action" help:"The reason, for the log of the relay."`
}

// run removes a member. The error is a sentence.
func (c *clusterRemove) run(ctx context.Context, call invocation) error {
	a, err := c.change(ctx, call, daemon.RemoveMemberPath, daemon.OperatorRequest{Why: c.Why})
	if err == nil {
		fmt.Fprintf(call.out, "%s: removed\n", a.What)
	}
	return err
}

// clusterMembers is the command cluster members.
type clusterMembers struct {
	operator

	JSON bool `of:"cluster" name:"json" unit:"true or false" group:"Output" help:"Print one JSON object, as /cluster/members has it."`
}

// run prints the members of the directory. The error is a sentence.
func (c *clusterMembers) run(ctx context.Context, call invocation) error {
	out := call.out
	a, err := c.asker(c.AnswerTimeout)
	if err != nil {
		return err
	}
	var list daemon.MemberList
	if err := a.fetch(ctx, daemon.MembersPath, &list); err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(out).Encode(list)
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tADDRESS\tSTATE\tANSWERS")
	votes, answer := 0, 0
	for _, m := range list.Members {
		state, answers := "member", "no"
		switch {
		case !m.Started:
			state = "never started"
		case !m.Votes:
			state = "fetches the data"
		case m.Leads:
			state = "leader"
		}
		if m.Answers {
			answers = "yes"
		}
		if m.Votes {
			votes++
			if m.Answers {
				answer++
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", m.Name, m.Address, state, answers)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	need := votes/2 + 1
	switch {
	case answer < need:
		fmt.Fprintf(out, "no majority: %d of %d answer, and %d must; docs/cluster.md says what to do if they are lost for good\n", answer, votes, need)
	case answer == need:
		fmt.Fprintf(out, "%d of %d answer: the loss of one more ends the majority\n", answer, votes)
	default:
		fmt.Fprintf(out, "%d of %d answer: %d may be lost\n", answer, votes, answer-need)
	}
	return nil
}
