# A shell in a running mesh.
log=/var/log/ipvsmeshd.log
if [ ! -d /run/systemd/system ]; then
    ipvsmeshd > $log 2>&1 < /dev/null &
    daemon=$!
    for _ in {1..100}; do
        ipvsmesh service ls > /dev/null 2>&1 && break
        if ! kill -0 $daemon 2> /dev/null; then
            echo "lab: ipvsmeshd has ended; its last words ($log):" >&2
            tail -n 5 $log >&2
            break
        fi
        sleep 0.1
    done
    disown -a
fi
if [ -t 0 ]; then
    echo "Host ports 127.0.0.1:8080-8089 are this machine's. Leave with exit, or Ctrl-] if it hangs."
fi
exec bash
