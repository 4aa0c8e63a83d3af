# What the steps of `cargo xtask bench` share; each begins with this.
set -euo pipefail
shopt -s inherit_errexit
trap 'echo "bench: line $LINENO failed: $BASH_COMMAND" >&2' ERR

# figure MEASURE SIDE COMMAND...: what the command says is told to the caller
figure() {
    local value
    value=$("${@:3}")
    echo "figure $1 $2 $value"
}

# inside NETNS COMMAND...
inside() { nsenter --net="/run/netns/$1" "${@:2}"; }

# until_true COMMAND...: waits for it, so many seconds at most
patience=60
until_true() {
    local end=$((SECONDS + patience))
    until "$@" > /dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { echo "bench: waited in vain for: $*" >&2; return 1; }
        sleep 0.2
    done
}

# machine NAME: two namespaces, NAME-host (192.0.2.1) and NAME-out beside it
# (192.0.2.2)
machine() {
    ip netns add "$1-host"
    ip netns add "$1-out"
    ip -n "$1-host" link set lo up
    ip -n "$1-out" link set lo up
    ip -n "$1-host" link add eth0 type veth peer name eth0 netns "$1-out"
    ip -n "$1-host" addr add 192.0.2.1/24 dev eth0
    ip -n "$1-out" addr add 192.0.2.2/24 dev eth0
    ip -n "$1-host" link set eth0 up
    ip -n "$1-out" link set eth0 up
    inside "$1-host" sysctl -qw net.ipv4.ip_forward=1
}

mesh() { inside b-host ipvsmesh --instance b "$@"; }

# A machine `b` with our daemon: service `web` (HTTP on port 80, published as
# 8080, and iperf3 on 5201), and two clients: a source port that one task uses
# both towards a VIP and towards a task behind it means a clash. Sets $web, $client
# and $other (namespaces), $task and $vip (addresses).
start_mesh() {
    machine b
    # not by `inside`: $! would be a shell's
    nsenter --net=/run/netns/b-host ipvsmeshd --instance b > /run/ipvsmeshd.log 2>&1 &
    daemon=$!
    until_true mesh node ls
    mesh network create back > /dev/null
    mesh service create --quiet --name web --network back --publish 8080:80 --publish 5201:5201 \
        --runtime process -- bash -c 'iperf3 -s -p 5201 -D; exec datapath-bench serve --port 80' > /dev/null
    mesh service create --quiet --name client --replicas 2 --network back --runtime process -- sleep infinity > /dev/null
    web=ipvsmesh-b-$(mesh service ps -q web | head -1)
    client=ipvsmesh-b-$(mesh service ps -q client | head -1)
    other=ipvsmesh-b-$(mesh service ps -q client | tail -1)
    task=$(inside "$web" ip -4 -o addr show dev eth0 | awk '{ sub("/.*", "", $4); print $4 }')
    vip=$(mesh service inspect web | sed -n 's/.*"Addr": *"\([0-9.]*\).*/\1/p' | head -1)
}

# Ends the daemon, whose namespaces, rules and tasks go on without it: what it
# does every few seconds would be part of one measurement and not of the next.
leave_mesh() {
    kill "$daemon"
    wait "$daemon" || true
}

# mbits NETNS ADDRESS: Mbit/s by iperf3 on port 5201
mbits() {
    inside "$1" iperf3 --client "$2" --port 5201 --time 1 --format m |
        awk '/receiver/ { print $(NF - 2) }'
}

# requests NETNS URL [OPTION...]: requests a second over four connections
requests() {
    inside "$1" wrk --threads 1 --connections 4 --duration 1s "${@:3}" "http://$2/" > /run/wrk
    if grep -q -e 'Non-2xx' -e 'Socket errors' /run/wrk; then
        cat /run/wrk >&2
        return 1
    fi
    awk '/^Requests\/sec/ { print $2 }' /run/wrk
}

# all_three SIDE NETNS ADDRESS PORT: each kind of traffic once
all_three() {
    figure iperf3 "$1" mbits "$2" "$3"
    figure keep-alive "$1" requests "$2" "$3:$4"
    figure close "$1" requests "$2" "$3:$4" --header 'Connection: close'
}
