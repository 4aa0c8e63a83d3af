# A kernel that cannot load IPVS: the daemon says so and changes nothing.
timeout 60 ipvsmeshd > /tmp/said 2>&1
code=$?
if [ $code = 1 ] && grep -q 'kernel module ip_vs is not available: ' /tmp/said &&
    grep -q 'modprobe ip_vs' /tmp/said && [ ! -e /var/lib/ipvsmesh ] && [ ! -e /run/netns/ipvsmesh-router ]; then
    exit 0
fi
echo "exit status $code, it said:" >&2
cat /tmp/said >&2
exit 1
