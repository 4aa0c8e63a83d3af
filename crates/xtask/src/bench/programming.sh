# Programming the kernel: from empty, one change, a restart, and doing nothing.
# Each in a host of its own; what is in a table makes the next one slower.
in_a_host() {
    ip netns add programming
    ip -n programming link set lo up
    inside programming datapath-bench "$@"
    ip netns del programming
    ip netns list | awk '/^ipvsmesh-/ { print $1 }' | while read -r netns; do
        inside "$netns" ipvsadm -C
        ip netns del "$netns"
    done
    sleep 20
}

in_a_host hold --services 0 --side empty
in_a_host hold --services 10 --side among-10
in_a_host hold --services 10000 --side among-10000
# once: it takes a minute, and repeats to a thousandth
in_a_host fill --services 10000
