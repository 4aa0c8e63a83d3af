#!/bin/bash
# The guest's fast init: what a machine has after boot and the mesh needs, then
# the command. bash, because it also waits for orphans.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8

mkdir -p /dev/pts /dev/shm
mount --all --fstab /lab/fstab
mkdir -p /run/lock
# as systemd does: `ip netns add` relies on it
mount --make-rshared /

hostname lab
/lab/network
# shellcheck disable=SC2046
modprobe --quiet --all $(grep -v '^#' /etc/modules-load.d/ipvsmesh.conf)

/lab/command-runner
sync
mount -o remount,ro / 2> /dev/null
echo o > /proc/sysrq-trigger
while :; do sleep 1; done
