# systemd-resolved as docs/names.md has it: the host asks the mesh for the mesh's names
# and others for all the rest, and tasks ask resolved's stub for these.
fail() {
    echo "beside systemd-resolved: $*" >&2
    resolvectl status >&2
    journalctl --no-pager -u ipvsmeshd -u systemd-resolved | tail -40 >&2
    exit 1
}

# a name server on another machine, of which resolved is told as by DHCP
ip netns exec out dnsmasq --no-resolv --no-hosts --address=/example.test/198.51.100.7 \
    --local=/ipvsmesh/ --log-queries --log-facility=/run/asked

ipvsmesh network create back
ipvsmesh service create --quiet --name vote --replicas 2 --network back --publish 8080:80 \
    --runtime process -- whoami --port 80
vip=$(vip vote)

is() {
    wanted=$1
    shift
    for _ in $(seq 50); do
        said=$("$@" 2>&1) || true
        [ "$said" = "$wanted" ] && return
        sleep 0.2
    done
    fail "$when: $* says $said, and not $wanted"
}
host() { getent ahostsv4 "$1" | awk '/STREAM/ { print $1 }'; }
all() {
    when=$1
    is "$vip" host vote.back.ipvsmesh
    is "" host nosuch.back.ipvsmesh
    is 198.51.100.7 host www.example.test
    is 198.51.100.7 ipvsmesh exec vote.1 -- dig +short +tries=1 www.example.test
    is "$vip" ipvsmesh exec vote.1 -- dig +short +tries=1 vote
    curl -sS --max-time 5 http://vote.back.ipvsmesh/ | grep -q '^Hostname: ' || fail "$when: no answer by the name"
    if grep 'query.*ipvsmesh' /run/asked; then fail "$when: another server was asked for the mesh's names"; fi
}

systemctl start systemd-resolved
resolvectl dns lan0 192.0.2.2
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
mkdir -p /etc/systemd/resolved.conf.d
cat > /etc/systemd/resolved.conf.d/ipvsmesh.conf <<'END'
[Resolve]
DNS=10.200.0.0
Domains=~ipvsmesh
END
systemctl restart systemd-resolved
resolvectl dns lan0 192.0.2.2
all "with the drop-in"
