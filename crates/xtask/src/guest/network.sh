#!/bin/sh
# The addresses that QEMU's user network expects of its guest.
set -e
ip link set lo up
ip address replace 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route replace default via 10.0.2.2
