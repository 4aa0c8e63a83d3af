#!/usr/bin/env bash
# What `cargo xtask demo` runs in the lab: the main job from nothing to nothing,
# each step's real command and real output.
set -u

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { printf '\033[36m$ %s\033[0m\n' "$*"; bash -c "$*" 2>&1; }
quietly() { bash -c "$*" > /dev/null 2>&1; }
[ -n "${NO_COLOR:-}" ] && { step() { printf '\n== %s\n' "$*"; }; run() { printf '$ %s\n' "$*"; bash -c "$*" 2>&1; }; }
failed=0
# what must hold for the demo to be one
must() { quietly "$2" || { printf 'FAILED: %s\n' "$1"; failed=1; }; }

step "A machine with a daemon, and another machine beside it (192.0.2.2)"
run "ipvsmeshd > /tmp/ipvsmeshd.log 2>&1 &"
quietly "ip netns add outside; ip link add lab0 type veth peer name eth0 netns outside
  ip addr add 192.0.2.1/24 dev lab0; ip link set lab0 up
  ip -n outside addr add 192.0.2.2/24 dev eth0; ip -n outside link set eth0 up; ip -n outside link set lo up"
until ipvsmesh node ls > /dev/null 2>&1; do
    sleep 0.2
    [ $SECONDS -lt 60 ] || { cat /tmp/ipvsmeshd.log; exit 1; }
done
run "ipvsmesh node ls"

step "A network, a service of three tasks behind one name, one VIP and one port"
run "ipvsmesh network create back"
run "ipvsmesh service create --name vote --replicas 3 --network back --publish 8080:80 --runtime process -- /usr/local/bin/whoami --port 80"
run "ipvsmesh service create --quiet --name client --network back --runtime process -- sleep infinity"
run "ipvsmesh service ls"
run "ipvsmesh service ps vote"

step "The name: of the service its VIP, of its tasks their addresses"
run "ipvsmesh exec client.1 -- dig +noall +answer vote tasks.vote vote.2"

step "The VIP, from another task: who answered, and the client address they saw"
run "ipvsmesh exec client.1 -- bash -c 'hostname -I; for i in 1 2 3 4 5 6; do curl -s http://vote/; done' | grep -E '^10|Hostname|RemoteAddr' | sed 's/:[0-9]*\$//' | sort | uniq -c"

step "The published port: from another machine, and from this one"
run "for i in 1 2 3 4 5 6; do ip netns exec outside curl -s http://192.0.2.1:8080/; done | grep -E 'Hostname|RemoteAddr' | sed 's/:[0-9]*\$//' | sort | uniq -c"
run "curl -s http://127.0.0.1:8080/"

step "The kernel's own view: published ports in one namespace, VIPs in the other"
run "ip netns exec ipvsmesh-ingress ipvsadm -Ln"
run "ip netns exec ipvsmesh-router ipvsadm -Ln"

step "Scale up"
run "ipvsmesh service scale vote=5"
run "for i in 1 2 3 4 5 6 7 8 9 10; do curl -s http://127.0.0.1:8080/; done | grep Hostname | sort | uniq -c"

step "A task is killed, and replaced"
run "kill -9 \$(ip netns pids ipvsmesh-\$(ipvsmesh service ps -q --filter name=vote.1 vote | head -1))"
for _ in $(seq 100); do
    sleep 0.2
    [ "$(ipvsmesh service ps --filter desired-state=running vote | grep -c ' Running  *Running ')" = 5 ] &&
        [ "$(ipvsmesh service ps vote | wc -l)" -gt 6 ] && break
done
run "ipvsmesh service ps --filter name=vote.1 vote"

step "The daemon is killed while requests go on"
client=ipvsmesh-$(ipvsmesh service ps -q client | head -1)
cat > /tmp/requests <<'END'
ok=0 bad=0
while [ ! -e /tmp/enough ]; do
    if ip netns exec outside curl -s --max-time 5 -o /dev/null http://192.0.2.1:8080/; then ok=$((ok + 1)); else bad=$((bad + 1)); fi
done
echo "$ok requests answered, $bad failed"
END
bash /tmp/requests > /tmp/requests.out &
requests=$!
sleep 1
run "kill -9 \$(pgrep -fx ipvsmeshd)"
sleep 2
run "ip netns exec $client dig +short @10.100.0.1 vote"
run "ipvsmesh service ls"
run "ipvsmeshd >> /tmp/ipvsmeshd.log 2>&1 &"
until quietly "ipvsmesh node ls"; do sleep 0.2; done
sleep 1
touch /tmp/enough
wait "$requests"
run "cat /tmp/requests.out"
must "requests failed while the daemon was away" "grep -q ' 0 failed' /tmp/requests.out"
run "ipvsmesh info | grep -A9 Counters"

step "The whole way, wanted beside what the kernel has"
run "ipvsmesh inspect vote"

step "Nothing is left"
run "ipvsmesh service rm vote client"
run "until ipvsmesh network rm back 2> /dev/null; do sleep 0.2; done   # once its last task has ended"
run "ip netns list; ipvsmesh service ls; ipvsmesh network ls"
run "kill \$(pgrep -fx ipvsmeshd); sleep 1; ipvsmeshd --cleanup"
run "ip netns list; iptables-save | grep -i ipvsmesh; ipset list -n; ls -d /run/ipvsmesh* /var/lib/ipvsmesh* 2>&1"
must "namespaces are left" "! ip netns list | grep -q ipvsmesh"
must "rules are left" "! iptables-save | grep -qi ipvsmesh"

printf '\nThe demo took %d seconds in the lab.\n' "$SECONDS"
exit "$failed"
