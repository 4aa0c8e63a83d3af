# Another machine on a link of this one; and what both tests beside others ask.
set -eu
ip netns add out
ip link add lan0 type veth peer name eth0 netns out
ip addr add 192.0.2.1/24 dev lan0
ip link set lan0 up
ip -n out addr add 192.0.2.2/24 dev eth0
ip -n out link set lo up
ip -n out link set eth0 up

# vip SERVICE: its first VIP, of IPv4
vip() { ipvsmesh service inspect "$1" | sed -n 's/.*"Addr": *"\(10[0-9.]*\).*/\1/p' | head -1; }

