# The same machine, booted again: all must come back by itself, as it was.
set -eu
fail() { echo "after the restart: $*" >&2; journalctl --no-pager -u ipvsmeshd | tail -40 >&2; exit 1; }

for _ in $(seq 150); do
    sleep 0.2
    ipvsmesh service ls 2> /dev/null | grep -q ' 2/2 ' && ipvsmesh service ls | grep -q ' 1/1 ' && break
done
ipvsmesh service ls
ipvsmesh service ls | grep -q ' 2/2 ' || fail "web did not come back"
ipvsmesh service inspect web auto | grep -E '"(Addr|PublishedPort|ID)"' | diff /root/endpoints - ||
    fail "VIPs or ports changed"

vip=$(grep Addr /root/endpoints | head -1 | cut -d '"' -f 4 | cut -d / -f 1)
auto=$(grep PublishedPort /root/endpoints | tail -1 | tr -dc 0-9)
answers() { curl -sS --max-time 2 "$1" 2>&1 | grep -q '^Hostname: '; }
for url in "http://10.0.2.15:8080/" "http://127.0.0.1:$auto/" "http://$vip/"; do
    for _ in $(seq 50); do answers "$url" && break; sleep 0.2; done
    answers "$url" || fail "$url does not answer"
done
ipvsmesh exec auto.1 -- dig +short web | grep -qx "$vip" || fail "the name is not answered"
systemctl stop ipvsmeshd
answers "http://10.0.2.15:8080/" || fail "stopping the unit stopped the traffic"
ipvsmeshd --cleanup
if ip netns list | grep ipvsmesh || iptables-save | grep -i ipvsmesh; then fail "things are left"; fi
