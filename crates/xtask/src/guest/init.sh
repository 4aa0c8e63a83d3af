#!/bin/bash
# The guest's fast init: what a machine has after boot and the mesh needs, then
# the command. bash, because it also waits for orphans.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8

mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666,gid=5 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
mkdir -p /run/lock
# as systemd does: `ip netns add` relies on it
mount --make-rshared /

hostname lab
/lab/network
modprobe --quiet --all $(grep -v '^#' /etc/modules-load.d/ipvsmesh.conf)

/lab/command-runner
sync
mount -o remount,ro / 2> /dev/null
echo o > /proc/sysrq-trigger
while :; do sleep 1; done
