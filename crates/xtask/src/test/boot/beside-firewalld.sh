# firewalld with its defaults, which lets nothing in but ssh: started after the mesh,
# reloaded, started again, and with its older back end.
fail() {
    echo "beside firewalld: $*" >&2
    nft list ruleset >&2
    journalctl --no-pager -u ipvsmeshd | tail -20 >&2
    exit 1
}

ip netns exec out whoami --port 9090 > /dev/null &
whoami --port 7070 > /dev/null &

ipvsmesh service create --quiet --name web --replicas 2 --publish 8080:80 --runtime process -- whoami --port 80
ipvsmesh service create --quiet --name far --publish 9090:80 --runtime static --endpoint 192.0.2.2:9090
vip=$(vip web)

answers() { "$@" 2> /dev/null | grep -q "${seen:-^Hostname: }"; }
outside() { ip netns exec out curl -sS --max-time 2 "http://192.0.2.1:$1/"; }
host() { curl -sS --max-time 2 "http://$1/"; }
task() { ipvsmesh exec web.1 -- curl -sS --max-time 2 "http://$1/"; }
soon() {
    for _ in $(seq 50); do answers "$@" && return; sleep 0.2; done
    fail "$when: no answer: $*"
}
# it has its name on the bus before it has rules
runs() {
    for _ in $(seq 100); do firewall-cmd --state > /dev/null 2>&1 && return; sleep 0.2; done
    fail "it does not start"
}
# what the host translates needs nothing
ours() {
    when=$1
    seen='^RemoteAddr: 192.0.2.2:' soon outside 8080
    soon host 192.0.2.1:8080
    soon host 127.0.0.1:8080
    soon host "$vip"
    soon task web
}
all() {
    ours "$1"
    soon outside 9090
    soon task 192.0.2.2:9090
    if answers outside 7070; then fail "$when: firewalld lets in what it should not"; fi
}

ours "without firewalld"
soon outside 9090
ipvsmesh doctor | grep -q 'firewalld .*does not run' || fail "doctor sees one"
systemctl start firewalld
runs
ours "after its start"
if answers task 192.0.2.2:9090; then fail "the warning is in vain"; fi
wanted='firewall-cmd --permanent --zone=trusted --add-interface=ivm0 && firewall-cmd --reload'
ipvsmesh doctor | grep -qF "$wanted" || fail "doctor does not say what to do"
eval "$wanted"
all "in the zone that doctor names"
ipvsmesh doctor | grep -q 'firewalld .*ivm0 is in its zone trusted' || fail "doctor does not see it"
firewall-cmd --quiet --complete-reload
all "after a complete reload"
systemctl restart ipvsmeshd
all "after the daemon's restart"
sed -i 's/^FirewallBackend=.*/FirewallBackend=iptables/' /etc/firewalld/firewalld.conf
systemctl restart firewalld
runs
all "after its start with iptables"
firewall-cmd --quiet --reload
all "after a reload with iptables"
systemctl stop firewalld
ours "without it again"
