# A machine with services, whose daemon is restarted by systemd on the way.
set -eu
fail() { echo "before the restart: $*" >&2; journalctl --no-pager -u ipvsmeshd | tail -40 >&2; exit 1; }

systemctl is-active --quiet ipvsmeshd || fail "the unit did not start"
ipvsmesh network create --subnet 10.101.0.0/24 back
run="--runtime process -- whoami --port 80"
ipvsmesh service create --quiet --name web --replicas 2 --network back --publish 8080:80 $run
ipvsmesh service create --quiet --name auto --network back --publish 80 $run
curl -sS --max-time 5 http://10.0.2.15:8080/ > /dev/null || fail "the port does not answer"

tasks=$(ipvsmesh service ps -q web)
systemctl restart ipvsmeshd
[ "$(ipvsmesh service ps -q web)" = "$tasks" ] || fail "a restart of the daemon replaced tasks"
curl -sS --max-time 5 http://10.0.2.15:8080/ > /dev/null || fail "the port does not answer after it"

ipvsmesh service inspect web auto | grep -E '"(Addr|PublishedPort|ID)"' > /root/endpoints
[ "$(grep -c Addr /root/endpoints)" = 4 ] || fail "there are not two VIPs of each family"
