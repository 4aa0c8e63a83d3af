#!/bin/sh
# First program of the guest: loads the drivers of its disks, ports and network
# card, unpacks the payload over the root disk, and hands over to the init that
# the kernel's command line names (lab.init=).
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
export PATH=/bin

die() {
    echo "lab: $*" > /dev/console
    poweroff -f
}

while read -r module; do
    insmod "/modules/$module" || die "module $module does not load"
done < /modules/order

init='' disks=''
for word in $(cat /proc/cmdline); do
    case $word in
    lab.init=*) init=${word#lab.init=} ;;
    lab.probe) echo LAB-PROBE-OK > /dev/console; poweroff -f ;;
    esac
done

for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -b /dev/vda ] && [ -b /dev/vdb ] && disks=yes && break
    sleep 0.2
done
[ -n "$disks" ] || die "the disks did not appear"

mount -t ext4 -o noatime /dev/vda /root || die "the root disk cannot be mounted"
tar -xf /dev/vdb -C /root || die "the payload cannot be unpacked"

# devtmpfs has devices only
for name in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
    ln -s "/proc/self/${name#*:}" "/dev/${name%:*}"
done
for place in dev proc sys; do mount --move "/$place" "/root/$place"; done
exec switch_root /root "$init"
