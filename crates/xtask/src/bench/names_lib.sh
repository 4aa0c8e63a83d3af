# What the steps of `cargo xtask bench dns` share: servers with the same names, asked by
# dnsperf on the same processor.

# questions FILE COUNT: a question a line
questions() {
    for n in $(seq 0 $(($2 - 1))); do echo "service$n A"; done | shuf --random-source=/bin/busybox > "$1"
}

# ask ADDRESS PORT FILE [OPTION...]: dnsperf's words; with the words of $source_of, in the
# namespace $asker if there is one
source_of=()
asker=
ask() {
    ${asker:+nsenter --net=/run/netns/$asker} \
        dnsperf -s "$1" -p "$2" -d "$3" -c 4 -q 16 -t 5 "${source_of[@]}" "${@:4}"
}

# rate ADDRESS PORT FILE: questions a second; all must be answered, and with an address
rate() {
    ask "$1" "$2" "$3" -l 2 > /run/dnsperf
    if ! grep -q 'Queries lost: *0 ' /run/dnsperf || ! grep -q 'NOERROR [0-9]* (100.00%)' /run/dnsperf; then
        cat /run/dnsperf >&2
        return 1
    fi
    awk '/Queries per second/ { print $4 }' /run/dnsperf
}

# slow ADDRESS PORT FILE: ms within which 99 of 100 questions were answered
slow() {
    ask "$1" "$2" "$3" -l 1 -v | awk '$1 == ">" && $2 == "NOERROR" { print $NF * 1000 }' | sort -n > /run/times
    awk '{ all[NR] = $1 } END { if (NR < 100) exit 1; print all[int(NR * 0.99)] }' /run/times
}

# ours SERVICES [OPTION...]: our responder on 127.0.0.1:5301, with so many services
ours() {
    datapath-bench respond --at 127.0.0.1:5301 --control /run/names.sock &
    responder=$!
    until_true test -S /run/names.sock
    datapath-bench names --at 127.0.0.1:5301 --control /run/names.sock --services "$@"
}

# dnsmasq_with COUNT: on 127.0.0.1:5302
dnsmasq_with() {
    for n in $(seq 0 $(($1 - 1))); do
        echo "10.200.$((n / 250)).$((n % 250 + 1)) service$n"
    done > /run/hosts
    dnsmasq --keep-in-foreground --no-resolv --no-hosts --port=5302 --listen-address=127.0.0.1 \
        --bind-interfaces --addn-hosts=/run/hosts --user=root &
    dnsmasq=$!
    until_true dig +short +tries=1 -p 5302 @127.0.0.1 service0
}

# megabytes PID
megabytes() { awk '/^VmRSS/ { printf "%.2f", $2 / 1024 }' "/proc/$1/status"; }
