package battery

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// attack is what a process of its own does to the relay, so that the pair and the
// newcomers of a test do not compete with it inside one process. Its exported fields
// reach that process as JSON. begin returns when the attack is under way; it goes on
// until the process ends, after a call of end.
type attack interface{ begin() (end func()) }

// asAttacker in the environment makes the test binary an attacker: it has the name of
// a type of attack, and a value of it.
const asAttacker = "BE_AN_ATTACKER"

// attacks has a value of each type of attack, to be filled.
var attacks = []attack{new(flood), new(siege), new(memoryAttack), new(nuisances)}

// attackName names the type of a.
func attackName(a attack) string { return strings.TrimPrefix(fmt.Sprintf("%T", a), "*") }

// beAttacker attacks until its standard input ends.
func beAttacker() {
	name, text, _ := strings.Cut(os.Getenv(asAttacker), " ")
	for _, a := range attacks {
		if attackName(a) != name {
			continue
		}
		if err := json.Unmarshal([]byte(text), a); err != nil {
			panic(err)
		}
		end := a.begin()
		fmt.Println("begun")
		_, _ = io.Copy(io.Discard, os.Stdin)
		end()
		os.Exit(0) // the kernel closes all connections
	}
	panic("there is no attack " + name)
}

// attackFromOutside begins a in a process of its own that gives way to all others, as
// if it ran elsewhere. end ends it, and returns what the end of the attack printed. The
// test calls it if its body does not.
func (n *node) attackFromOutside(a attack) (end func() string) {
	n.t.Helper()
	n.peers.Strangers()
	text, err := json.Marshal(a)
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := exec.Command("nice", "-n", "19", os.Args[0])
	cmd.Env = append(os.Environ(), asAttacker+"="+attackName(a)+" "+string(text), "GOMAXPROCS=1", "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	pipe, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		n.t.Fatal(err)
	}
	out := bufio.NewReader(pipe)
	end = sync.OnceValue(func() string {
		in.Close()
		said, _ := io.ReadAll(out)
		if err := cmd.Wait(); err != nil {
			n.t.Errorf("the attacker: %v", err)
		}
		return string(said)
	})
	n.t.Cleanup(func() { end() })
	if line, err := out.ReadString('\n'); err != nil {
		n.t.Errorf("the attacker said %q: %v", line, err)
	}
	return end
}
