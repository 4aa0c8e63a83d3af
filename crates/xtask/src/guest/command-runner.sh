#!/bin/bash
# Runs /lab/command with its input and outputs at the machine's virtio ports,
# and tells its exit status.

port() {
    for _ in {1..50}; do
        for entry in /sys/class/virtio-ports/*; do
            if [ "$(cat "$entry/name" 2> /dev/null)" = "$1" ] && [ -c "/dev/${entry##*/}" ]; then
                echo "/dev/${entry##*/}"
                return
            fi
        done
        sleep 0.1
    done
    echo "lab: port $1 did not appear" > /dev/console
    exit 1
}

control=$(port lab.control) || exit 1
exec 9> "$control"
if [ -d /run/systemd/system ]; then
    systemctl is-system-running --wait > /dev/null
fi
echo up >&9

cd /root || exit 1
if [ -e /lab/size ]; then
    # a terminal: the machine's virtual console, which has no size until it is
    # open
    read -r rows columns < /lab/size
    # shellcheck disable=SC2016
    setsid --ctty --wait bash -c 'stty rows "$0" cols "$1"; exec bash /lab/command' \
        "$rows" "$columns" < /dev/hvc0 > /dev/hvc0 2>&1 9>&-
    code=$?
else
    # Not the ports themselves: each can be opened once only, so that the
    # command could not open its own /dev/stdout or /dev/stderr.
    pipes=$(mktemp -d)
    mkfifo "$pipes/in" "$pipes/out" "$pipes/err"
    cat < "$pipes/out" > "$(port lab.out)" 9>&- &
    out=$!
    cat < "$pipes/err" > "$(port lab.err)" 9>&- &
    err=$!
    cat < "$(port lab.in)" > "$pipes/in" 9>&- &
    in=$!
    bash /lab/command < "$pipes/in" > "$pipes/out" 2> "$pipes/err" 9>&-
    code=$?
    # A daemon that the command left behind keeps its outputs open; what was
    # said until now is through after a moment.
    for _ in {1..20}; do
        kill -0 $out 2> /dev/null || kill -0 $err 2> /dev/null || break
        sleep 0.1
    done
    kill $in $out $err 2> /dev/null
fi
echo "exit $code" >&9
