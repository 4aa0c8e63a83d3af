# The other sides: what one would build by hand.

# plain_through_mesh: on our machine, but the host translates to the task itself:
# the same namespaces, the same rules, only no balancer. It answers at 192.0.2.10
# and sees 192.0.2.20 there, so that no connection looks like one of the mesh's.
plain_through_mesh() {
    ip -n b-host addr add 192.0.2.10/24 dev eth0
    ip -n b-out addr add 192.0.2.20/24 dev eth0
    ip -n b-out route add 192.0.2.10 dev eth0 src 192.0.2.20
    inside b-host iptables-restore --noflush <<RULES
*nat
-I PREROUTING -d 192.0.2.10 -p tcp -m tcp --dport 8080 -j DNAT --to-destination $task:80
-I PREROUTING -d 192.0.2.10 -p tcp -m tcp --dport 5201 -j DNAT --to-destination $task:5201
COMMIT
RULES
}

# forwarder NETNS: a namespace that forwards and no more
forwarder() {
    ip netns add "$1"
    ip -n "$1" link set lo up
    inside "$1" sysctl -qw net.ipv4.ip_forward=1
}

# server NETNS: what `web` runs
server() {
    inside "$1" iperf3 -s -p 5201 -D
    inside "$1" datapath-bench serve --port 80 &
}

# plain: the host translates, two empty namespaces forward.
#   p-out ═ p-host ═ p-1 ═ p-2 ═ p-task (10.100.0.2)
plain() {
    machine p
    forwarder p-1
    forwarder p-2
    forwarder p-task
    ip -n p-host link add ivm0 type veth peer name up0 netns p-1
    ip -n p-1 link add dn0 type veth peer name up0 netns p-2
    ip -n p-2 link add t1 type veth peer name eth0 netns p-task
    ip -n p-host addr add 10.90.0.1/30 dev ivm0
    ip -n p-1 addr add 10.90.0.2/30 dev up0
    ip -n p-1 addr add 169.254.0.1/30 dev dn0
    ip -n p-2 addr add 169.254.0.2/30 dev up0
    ip -n p-2 addr add 10.100.0.1/24 dev t1
    ip -n p-task addr add 10.100.0.2/24 dev eth0
    ip -n p-host link set ivm0 up
    ip -n p-1 link set up0 up
    ip -n p-1 link set dn0 up
    ip -n p-2 link set up0 up
    ip -n p-2 link set t1 up
    ip -n p-task link set eth0 up
    ip -n p-host route add 10.100.0.0/16 via 10.90.0.2
    ip -n p-1 route add default via 10.90.0.1
    ip -n p-1 route add 10.100.0.0/16 via 169.254.0.2
    ip -n p-2 route add default via 169.254.0.1
    ip -n p-task route add default via 10.100.0.1
    inside p-host iptables-restore <<'RULES'
*nat
-A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.100.0.2:80
-A PREROUTING -p tcp -m tcp --dport 5201 -j DNAT --to-destination 10.100.0.2:5201
COMMIT
RULES
    server p-task
}

# swarm: Docker Swarm's ingress, rule by rule as libnetwork's service_linux.go
# makes them, between bridges as Docker has them.
#   s-out ═ s-host [docker_gwbridge] ═ s-sbox ═ s-overlay [br0] ═ s-task (10.0.0.2)
swarm() {
    # dockerd loads it, and it is on in each namespace from then on
    modprobe br_netfilter
    machine s
    forwarder s-sbox
    forwarder s-overlay
    forwarder s-task
    ip -n s-host link add docker_gwbridge type bridge
    ip -n s-host addr add 172.18.0.1/16 dev docker_gwbridge
    ip -n s-host link add v1 type veth peer name eth1 netns s-sbox
    ip -n s-host link set v1 master docker_gwbridge
    ip -n s-overlay link add br0 type bridge
    ip -n s-overlay link add v2 type veth peer name eth0 netns s-sbox
    ip -n s-overlay link add v3 type veth peer name eth0 netns s-task
    ip -n s-overlay link set v2 master br0
    ip -n s-overlay link set v3 master br0
    ip -n s-sbox addr add 172.18.0.2/16 dev eth1
    ip -n s-sbox addr add 10.0.0.3/24 dev eth0
    ip -n s-task addr add 10.0.0.2/24 dev eth0
    local link
    for link in s-host/docker_gwbridge s-host/v1 s-overlay/br0 s-overlay/v2 s-overlay/v3 \
        s-sbox/eth1 s-sbox/eth0 s-task/eth0; do
        ip -n "${link%/*}" link set "${link#*/}" up
    done
    ip -n s-sbox route add default via 172.18.0.1
    # the host: to the sandbox of the ingress network, the port as it is
    inside s-host iptables-restore <<'RULES'
*nat
:DOCKER-INGRESS - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER-INGRESS
-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER-INGRESS
-A DOCKER-INGRESS -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.18.0.2:8080
-A DOCKER-INGRESS -p tcp -m tcp --dport 5201 -j DNAT --to-destination 172.18.0.2:5201
-A DOCKER-INGRESS -j RETURN
COMMIT
RULES
    # the sandbox: mark, balance, source NAT
    inside s-sbox sysctl -qw net.ipv4.vs.conntrack=1 net.ipv4.vs.conn_reuse_mode=0 \
        net.ipv4.vs.expire_nodest_conn=1 net.ipv4.vs.expire_quiescent_template=1
    inside s-sbox iptables-restore <<'RULES'
*mangle
-A PREROUTING -p tcp -m tcp --dport 8080 -j MARK --set-mark 0x100
-A PREROUTING -p tcp -m tcp --dport 5201 -j MARK --set-mark 0x101
COMMIT
*nat
-A POSTROUTING -m ipvs --ipvs -d 10.0.0.0/24 -j SNAT --to-source 10.0.0.3
COMMIT
RULES
    inside s-sbox ipvsadm --restore <<'SERVICES'
-A -f 256 -s rr
-a -f 256 -r 10.0.0.2:0 -m -w 1
-A -f 257 -s rr
-a -f 257 -r 10.0.0.2:0 -m -w 1
SERVICES
    # the task: from the published port to its own, and only that
    inside s-task iptables-restore <<'RULES'
*nat
-A PREROUTING -d 10.0.0.2 -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 80
-A PREROUTING -d 10.0.0.2 -p tcp -m tcp --dport 5201 -j REDIRECT --to-ports 5201
COMMIT
*filter
-A INPUT -d 10.0.0.2 -p tcp -m tcp --dport 80 -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT
-A INPUT -d 10.0.0.2 -p tcp -m tcp --dport 5201 -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT
-A INPUT -d 10.0.0.2 -p sctp -j DROP
-A INPUT -d 10.0.0.2 -p udp -j DROP
-A INPUT -d 10.0.0.2 -p tcp -j DROP
-A OUTPUT -s 10.0.0.2 -p tcp -m tcp --sport 80 -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A OUTPUT -s 10.0.0.2 -p tcp -m tcp --sport 5201 -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A OUTPUT -s 10.0.0.2 -p sctp -j DROP
-A OUTPUT -s 10.0.0.2 -p udp -j DROP
-A OUTPUT -s 10.0.0.2 -p tcp -j DROP
COMMIT
RULES
    server s-task
}
