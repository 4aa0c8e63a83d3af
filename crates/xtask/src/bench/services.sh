# Packets to one VIP, among 1 and among 10,000 services.
start_mesh
gateway=$(inside "$client" ip -4 route show default | awk '{ print $3 }')
own=$(inside "$client" ip -4 -o addr show dev eth0 | awk '{ sub("/.*", "", $4); print $4 }')
inside "$client" ping -q -c 1 "$gateway" > /dev/null
mac=$(inside "$client" ip neigh show "$gateway" | awk '{ print $5 }')
# who gets the packets does not answer them
inside "$web" iptables -t raw -A PREROUTING -p udp -j DROP
# it would take the services that are not its own away
leave_mesh

# The sender waits for nobody: where the kernel balances in a thread for a moment,
# packets wait, and none is lost.
sysctl -qw net.core.netdev_max_backlog=100000
modprobe pktgen
inside "$client" bash -c 'echo "add_device eth0" > /proc/net/pktgen/kpktgend_0'
packets=10000

received() {
    inside "$web" iptables -t raw -nvxL PREROUTING | awk '$3 == "DROP" { print $1 }'
}

# packets_a_second: small UDP packets of 100 flows, as fast as they go
packets_a_second() {
    local setting before lost
    for setting in "count $packets" "clone_skb 0" "pkt_size 60" "delay 0" \
        "dst $vip" "dst_mac $mac" "src_min $own" "src_max $own" \
        "udp_dst_min 9" "udp_dst_max 9" "udp_src_min 2000" "udp_src_max 2099"; do
        inside "$client" bash -c "echo '$setting' > /proc/net/pktgen/eth0"
    done
    before=$(received)
    inside "$client" bash -c 'echo start > /proc/net/pktgen/pgctrl'
    sleep 1
    lost=$((packets - ($(received) - before)))
    if [ $lost != 0 ]; then
        echo "bench: $lost of $packets packets did not come" >&2
        return 1
    fi
    inside "$client" awk '/pps/ { sub("pps", "", $1); print $1 }' /proc/net/pktgen/eth0
}

# The other 9,999 services; nobody asks them by TCP.
others() {
    seq 1 9999 | awk -v task="$task" '{
        vip = sprintf("10.201.%d.%d", $1 / 250, $1 % 250 + 1)
        mark = 1048576 + 2 * $1
        printf "add vips-tcp %s skbmark 0x%x\nadd vips-udp %s skbmark 0x%x\n",
            vip, mark, vip, mark + 1 > "/run/sets"
        printf "-A -f %d -s rr\n-a -f %d -r %s:0 -m -w 1\n", mark + 1, mark + 1, task > "/run/services"
    }'
    inside ipvsmesh-b-router ipset restore < /run/sets
    inside ipvsmesh-b-router ipvsadm --restore < /run/services
}

packets_a_second > /dev/null
for _ in 1 2 3 4 5; do figure packets alone packets_a_second; done
others
packets_a_second > /dev/null
for _ in 1 2 3 4 5; do figure packets among-10000 packets_a_second; done
