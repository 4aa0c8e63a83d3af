# in_a_host PART...: one part of a measurement, in a host of its own; what is in a table
# makes the next one slower.
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

