# Runs in fresh namespaces of network, mounts and cgroups: makes them look like
# a machine without a mesh, then runs the script. Arguments: an empty folder, the
# folder of the project's programs, the script.
set -e
stage=$1 folder=$2 script=$3
names=$(cat /etc/resolv.conf 2> /dev/null || :)

# all of it is bound to its place at the end: the programs may be in /tmp or /run
mount -t tmpfs -o mode=755 lab "$stage"
mkdir -p "$stage/run/lock" "$stage/run/netns" "$stage/programs" "$stage/upper" "$stage/work"
mkdir -m 1777 "$stage/tmp"
mount --bind "$folder" "$stage/programs"
mount -t overlay -o "lowerdir=/var/lib,upperdir=$stage/upper,workdir=$stage/work" overlay /var/lib
mkdir "$stage/run/lab"
mount --bind "$stage/programs" "$stage/run/lab"
mount --rbind "$stage/run" /run
mount --bind "$stage/tmp" /tmp
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2> /dev/null || :
mount --make-rshared /

if [ ! -e /etc/resolv.conf ]; then
    # it is a link into the /run that is gone
    target=$(readlink -m /etc/resolv.conf)
    mkdir -p "${target%/*}"
    printf '%s\n' "$names" > "$target"
fi
ip link set lo up
export PATH="/run/lab:$PATH"
exec bash -c "$script"
