# Requests through a VIP and a published port, beside those straight to the task; and
# whom a client comes to by a name that is a set of addresses.

# ratios SIDE: by $cli
ratios() {
    local side=$1 task vip direct
    $network back > /dev/null
    $cli service create --detach --name web --network back --publish 8080:80 \
        bench:1 /bin/datapath-bench serve --port 80 > /dev/null
    $cli service create --detach --name client --network back bench:1 /bin/sleep 10000 > /dev/null
    until_true pid_of web
    until_true pid_of client
    task=$(nsenter --target "$(pid_of web)" --net ip -4 -o addr show dev eth0 | awk '{ sub("/.*", "", $4); print $4; exit }')
    vip=$($cli service inspect web | sed -n 's/.*"Addr": *"\([0-9.]*\).*/\1/p' | tail -1)
    ip netns attach "client-$side" "$(pid_of client)"
    until_true requests "client-$side" "$vip"
    until_true requests out "$port"
    for _ in 1 2 3 4 5; do
        direct=$(requests "client-$side" "$task")
        figure vip "$side" share "$(requests "client-$side" "$vip")" "$direct"
        figure port "$side" share "$(requests out "$port")" "$direct"
    done
    # one word an option is what this is for
    # shellcheck disable=SC2086
    $cli service create --detach --name rr --replicas 6 --network back --endpoint-mode dnsrr \
        $one_answer bench:1 /bin/whoami > /dev/null
    mkdir -p "/etc/netns/client-$side"
    cp "/proc/$(pid_of client)/root/etc/resolv.conf" "/etc/netns/client-$side/"
    until_true running rr 6
    figure spread "$side" asked
}

# asked: how many tasks 40 clients come to, by a real curl
asked() {
    for _ in $(seq 40); do
        ip netns exec "client-$side" curl -sS --max-time 5 http://rr/ | sed -n 's/^Hostname: //p'
    done | sort -u | wc -l
}

share() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }'; }

start_docker
images
use_mesh
ratios mesh
leave_mesh
use_swarm
ratios swarm
