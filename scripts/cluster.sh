#!/bin/bash
# Runs three relays on loopback that share server-ids: `make cluster` (docs/cluster.md).
# Usage: scripts/cluster.sh PORT [OPTION...]. The options are given to each relay.
#
# Ctrl-C drains all three relays, and the script returns 0 once they have ended. A
# second Ctrl-C cuts the connections that are left.
set -m # each relay gets a process group of its own, so that Ctrl-C reaches this script only
port=$1
shift
parent=$PPID

peers=127.0.0.1:$((port + 21)),127.0.0.1:$((port + 22)),127.0.0.1:$((port + 23))
for n in 1 2 3; do
	./bin/pyrycode-relay serve --cluster-embedded --cluster-name relay-$n --cluster-peers $peers \
		--cluster-listen 127.0.0.1:$((port + 20 + n)) --listen 127.0.0.1:$((port + n)) \
		--metrics-listen 127.0.0.1:$((port + 10 + n)) "$@" 2>&1 |
		(trap '' INT TERM HUP; while IFS= read -r line; do printf '%s %s\n' relay-$n "$line"; done) &
done
groups=$(jobs -p)

# The signal goes to the relays; the writers of the log lines ignore it.
stop() { for g in $groups; do kill -TERM -- "-$g" 2>/dev/null; done; }
trap stop INT TERM HUP

echo "relays: ws://127.0.0.1:$((port + 1)) to …$((port + 3)); operators: http://127.0.0.1:$((port + 11)) to …$((port + 13))"
echo "once they are ready: ./bin/pyrycode-relay probe --help; Ctrl-C ends all"

# A signal interrupts wait. The watcher ends the relays if make is killed.
(while kill -0 "$parent" 2>/dev/null; do sleep 1; done; kill -TERM $$) 2>/dev/null &
watcher=$!
while [ -n "$(jobs -p | grep -v "^$watcher$")" ]; do
	wait -n
done
kill -- "-$watcher" 2>/dev/null
exit 0
