# A service's life, and what its clients notice of it.

# now: seconds, with fractions
now() { date +%s.%N; }

# since SECONDS
since() { awk -v a="$(now)" -v b="$1" 'BEGIN { printf "%.2f", a - b }'; }

# answers N: whether so many tasks answer by the published port
answers() {
    local n
    n=$(for _ in $(seq $((3 * $1))); do
        inside out curl -sS --max-time 2 "http://$port/" 2> /dev/null | sed -n 's/^Hostname: //p'
    done | sort -u | wc -l)
    [ "$n" -ge "$1" ]
}

# containers N: whether so many tasks of `web` have one
containers() { [ "$(docker ps -q --filter name='^web\.' | wc -l)" = "$1" ]; }

# loses ADDRESS COMMAND...: 0 if the server that the command asks sees this address
loses() {
    "${@:2}" > /run/answer
    if grep -q "^RemoteAddr: $1:" /run/answer; then echo 0; else echo 1; fi
}

# memory PATTERN: MB of these processes, shared pages by halves and thirds
memory() {
    local pid sum=0
    for pid in $(pgrep -f "$1"); do
        sum=$((sum + $(awk '/^Pss:/ { print $2 }' "/proc/$pid/smaps_rollup" 2> /dev/null || echo 0)))
    done
    awk -v kb="$sum" 'BEGIN { printf "%.1f", kb / 1024 }'
}

# all that is there because tasks are, but the tasks' own processes
helpers='dockerd|containerd|docker-proxy|ipvsmesh'

# each_of_10 BEFORE AFTER
each_of_10() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", (b - a) / 10 }'; }

# compare SIDE: everything, by $cli
compare() {
    local side=$1 began client address vip before
    before=$(memory "$helpers")
    $network back > /dev/null

    # how fast
    began=$(now)
    $cli service create --detach --name web --replicas 3 --network back --publish 8080:80 \
        --label ipvsmesh.drain-timeout=10m bench:1 /bin/whoami > /dev/null
    until_true answers 1
    echo "figure create-first $side $(since "$began")"
    until_true answers 3
    echo "figure create-all $side $(since "$began")"
    $cli service scale --detach web=1 > /dev/null
    until_true containers 1
    began=$(now)
    $cli service scale --detach web=10 > /dev/null
    until_true answers 10
    echo "figure scale $side $(since "$began")"

    sleep 5
    figure task-memory "$side" each_of_10 "$before" "$(memory "$helpers")"

    # who is seen
    figure port-lost "$side" loses 192.0.2.2 inside out curl -sS "http://$port/"
    $cli service create --detach --name client --network back bench:1 /bin/sleep 1000 > /dev/null
    until_true pid_of client
    client=$(pid_of client)
    address=$(nsenter --target "$client" --net ip -4 -o addr show dev eth0 | awk '{ sub("/.*", "", $4); print $4; exit }')
    vip=$($cli service inspect web | sed -n 's/.*"Addr": *"\([0-9.]*\).*/\1/p' | tail -1)
    figure vip-lost "$side" loses "$address" nsenter --target "$client" --net curl -sS "http://$vip/"

    # what breaks
    under_load down scaled_down
    under_load update updated
    # how many requests it takes with it is chance
    for _ in 1 2 3 4 5; do
        under_load kill killed
        until_true answers 3
    done
    under_load crash crashed
}

# under_load PHASE COMMAND: runs it while clients ask; what they saw has its name
under_load() {
    local load fifo=/run/load-$1-$side
    [ -p "$fifo" ] || mkfifo "$fifo"
    inside out whoami load --kept 20 "$port" < "$fifo" > "$fifo.out" &
    load=$!
    exec 9> "$fifo"
    sleep 5
    # those before do not count
    echo >&9
    "$2"
    echo >&9
    until_true reported "$fifo.out"
    exec 9>&-
    wait "$load"
    tail -1 "$fifo.out" | awk -v phase="$1" -v side="$side" '{
        print "figure " phase "-asked " side " " $1
        print "figure " phase "-failed " side " " $3
        print "figure " phase "-broken " side " " $5
        print "figure " phase "-slowest " side " " $10 / 1000
        print phase ", " side ": " $0
    }'
    figure "$1-refused" "$side" refused "$fifo.out"
    # leaving tasks have nobody to wait for any more
    until_true containers 3
}

# refused FILE: how many of the failed requests were given no connection
refused() { tail -1 "$1" | tr , '\n' | awk '/: connect: / { sum += $NF } END { print sum + 0 }'; }

reported() { [ "$(wc -l < "$1")" = 2 ]; }

scaled_down() {
    $cli service scale --detach web=3 > /dev/null
    sleep 20
}

updated() {
    $cli service update --detach --update-order start-first --env-add A=b web > /dev/null
    until_true update_completed
    sleep 5
}

update_completed() { $cli service inspect web | grep -q '"State": *"completed"'; }

killed() {
    # one that clients have had time to find
    kill -9 "$(pid_of web)"
    # until the next one serves: it may refuse some as well
    sleep 15
    until_true containers 3
    sleep 5
}

crashed() {
    crash
    sleep 20
}

start_docker
images

# the floor: a container without network
began=$(now)
docker run --detach --network none --name floor bench:1 /bin/whoami > /dev/null
echo "figure create-first floor $(since "$began")"
docker rm --force floor > /dev/null

use_mesh
figure daemon-memory mesh memory ipvsmeshd
compare mesh
# Docker would take half an hour to start so many here
ipvsmesh service create --detach --name many --replicas 100 --runtime process -- sleep 10000 > /dev/null
until_true running many 100
figure daemon-memory-100 mesh memory 'ipvsmeshd( dns.*)?$'
leave_mesh

use_swarm
figure daemon-memory swarm memory 'dockerd|containerd$'
compare swarm
