# A machine whose Docker confines containers by AppArmor, as Debian's and Ubuntu's do.
set -eu
fail() { echo "confined by AppArmor: $*" >&2; journalctl --no-pager -u ipvsmeshd -u docker | tail -40 >&2; exit 1; }

mkdir -p /run/image/bin
cp /bin/busybox "$(command -v whoami)" /run/image/bin
ln -s busybox /run/image/bin/sh
tar -C /run/image -c . | docker import - confined:1 > /dev/null

ipvsmesh service create --quiet --name web --replicas 2 --publish 8080:80 confined:1 whoami --port 80 > /dev/null
for task in $(docker ps -q --filter 'name=^web\.'); do
    pid=$(docker inspect --format '{{.State.Pid}}' "$task")
    grep -qx 'docker-default (enforce)' "/proc/$pid/attr/current" || fail "$(cat "/proc/$pid/attr/current")"
done
curl -sS --max-time 5 http://127.0.0.1:8080/ | grep -q '^Hostname: ' || fail "the port does not answer"
ipvsmesh exec web.1 -- sh -c 'busybox nslookup web && busybox wget -q -O- http://web/' | grep -q '^Hostname: ' ||
    fail "the name does not answer inside of a task"
ipvsmesh trace --from web.1 --to web | grep -qx 'It arrived.' || fail "a probe is lost"

wait_until() {
    for _ in $(seq 300); do
        "$1" && return
        sleep 0.2
    done
    docker ps -a >&2
    fail "in vain until: $1"
}
tasks() { ipvsmesh service ps -q web | sort; }
replaced() { [ "$(ipvsmesh service ls --format '{{.Replicas}}')" = 2/2 ] && [ "$(tasks)" != "$old" ]; }
removed() { [ -z "$(docker ps -aq)" ]; }

# one that dies, and then all of them
old=$(tasks)
kill -9 "$pid"
wait_until replaced
[ "$(docker ps -q --filter 'name=^web\.' | wc -l)" = 2 ] || fail "the killed task was not replaced"
ipvsmesh service rm web > /dev/null
wait_until removed
