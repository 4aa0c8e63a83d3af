#!/bin/sh
# What a Debian machine needs to run ipvsmesh, and the tools that its tests look
# with. The lab's image is built with it (in a chroot, for another kernel) and
# the Vagrantfile's machine as well; running it again changes nothing.
set -eu

packages="
    iproute2 iptables ipset conntrack procps util-linux kmod
    ipvsadm curl bind9-dnsutils dnsmasq-base iputils-ping tcpdump nftables
    netcat-openbsd socat lksctp-tools iperf3 wrk docker.io docker-registry
    ca-certificates busybox-static less
"

# ip_vs first: it reads its options when it is loaded. All of these load by
# themselves when they are needed; the list is for programs that look for them
# beforehand, and for kernels where autoloading was turned off.
modules="
    ip_vs ip_vs_rr ip_vs_wrr ip_vs_lc ip_vs_wlc ip_vs_sh ip_vs_mh ip_vs_dh
    ip_vs_sed ip_vs_nq ip_vs_fo ip_vs_ovf ip_vs_lblc ip_vs_lblcr
    ip_set ip_set_hash_ip ip_set_hash_ipport ip_set_hash_net
    ip_set_hash_netnet ip_set_hash_netport ip_set_bitmap_port
    xt_set xt_bpf xt_mark xt_TEE xt_conntrack xt_addrtype
    xt_comment xt_nat xt_MASQUERADE nf_conntrack nf_conntrack_netlink
    veth vxlan
"

if [ "$(id -u)" != 0 ]; then
    echo "provision.sh: it installs packages: run it as root" >&2
    exit 1
fi

missing=""
for package in $packages; do
    state=$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    export DEBIAN_FRONTEND=noninteractive
    fresh=$(find /var/lib/apt/lists -name '*_Packages*' -mmin -60 2>/dev/null)
    [ -n "$fresh" ] || apt-get --quiet update
    # one word a package is what the list is for
    # shellcheck disable=SC2086
    apt-get --quiet --yes --no-install-recommends install $missing
fi

# A Docker that came with us starts when its socket is first used: a mesh
# without docker tasks does not wait for it at boot.
case " $missing " in
*" docker.io "*) systemctl --quiet disable docker.service containerd.service ;;
esac

echo "# written by ipvsmesh's provision.sh" > /etc/modules-load.d/ipvsmesh.conf
for module in $modules; do
    echo "$module" >> /etc/modules-load.d/ipvsmesh.conf
done

# IPVS has one table of connections for all namespaces, of 4,096 buckets
# unless told otherwise.
cat > /etc/modprobe.d/ipvsmesh.conf <<'END'
# written by ipvsmesh's provision.sh
options ip_vs conn_tab_bits=16
END

# Not in a chroot: the kernel that runs is another machine's.
if [ -d /run/systemd/system ]; then
    # shellcheck disable=SC2086
    modprobe --all $modules
fi
