package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// clusterCommand lists and removes the members of the directory of a cluster, through the
// private listener of any of its relays.
type clusterCommand struct {
	operator `embed:""`

	Words []string `arg:"" optional:"" name:"what" help:"members: list the members of the cluster's directory. remove NAME: remove the one with that name or address. Its relay must have ended."`

	Why  string `of:"cluster" name:"why" default:"" unit:"text" group:"Action" help:"The reason of a removal, for the log of the relay."`
	JSON bool   `of:"cluster" name:"json" default:"false" unit:"true or false" group:"Output" help:"members prints one JSON object, as /cluster/members has it."`
}

// run carries out one action. The error is a sentence.
func (c *clusterCommand) run(ctx context.Context, call invocation) error {
	switch {
	case len(c.Words) == 1 && c.Words[0] == "members":
		return c.members(ctx, call.out)
	case len(c.Words) == 2 && c.Words[0] == "remove":
		n := named{operator: c.operator, What: c.Words[1]}
		a, err := n.change(ctx, call, daemon.RemoveMemberPath, daemon.OperatorRequest{What: n.What, Why: c.Why})
		if err == nil {
			fmt.Fprintf(call.out, "%s: removed\n", a.What)
		}
		return err
	}
	return usagef("the actions are cluster members and cluster remove NAME")
}

// members prints the members of the directory.
func (c *clusterCommand) members(ctx context.Context, out io.Writer) error {
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
