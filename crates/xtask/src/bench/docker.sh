# What the steps of `cargo xtask bench swarm` share: Docker Swarm, then the mesh, by the
# same script with the same Docker Engine, image, server and clients. Some clients are
# on another machine (namespace `out`).

ip netns add out
ip -n out link set lo up
ip link add bench0 type veth peer name eth0 netns out
ip addr add 192.0.2.1/24 dev bench0
ip -n out addr add 192.0.2.2/24 dev eth0
ip link set bench0 up
ip -n out link set eth0 up
port=192.0.2.1:8080
# a container's start takes seconds on an emulated processor
patience=600

# In memory, so that no disk is part of what is compared.
start_docker() {
    mkdir -p /var/lib/docker
    mountpoint -q /var/lib/docker || mount -t tmpfs tmpfs /var/lib/docker
    until_true docker_answers
}

# Descriptor 9 is what clients read (under_load): who is started meanwhile must not
# keep it open. It gives its containerd 15 s and ends where those are not enough.
dockerd=
docker_answers() {
    timeout 10 docker version && return
    if [ -z "$dockerd" ] || ! kill -0 "$dockerd"; then
        dockerd >> /run/dockerd.log 2>&1 9>&- &
        dockerd=$!
    fi
    return 1
}

images() {
    mkdir -p /run/image/bin
    cp "$(command -v whoami)" "$(command -v datapath-bench)" /bin/busybox /run/image/bin
    ln -s busybox /run/image/bin/sleep
    tar -C /run/image -c . | docker import - bench:1 > /dev/null
}

# pid_of SERVICE: the first process of its oldest task
pid_of() {
    docker inspect --format '{{.State.Pid}}' "$(docker ps -q --filter "name=^$1\." | tail -1)"
}

# running SERVICE N: whether so many tasks of so many run
running() { [ "$($cli service ls --filter "name=$1" --format '{{.Replicas}}')" = "$2/$2" ]; }

# use_mesh, use_swarm: from then on `$cli` speaks to this one, `$network` makes a
# network of its own, and `crash` kills its daemon and starts it again
use_mesh() {
    start_daemon
    cli=ipvsmesh
    network='ipvsmesh network create --ipv6=false'
    one_answer='--dns-answers 1'
    crash() {
        kill -9 "$daemon"
        start_daemon
    }
}

leave_mesh() {
    ipvsmesh service rm $(ipvsmesh service ls -q) > /dev/null
    until_true no_task
    kill "$daemon"
    wait "$daemon" || true
    ipvsmeshd --cleanup > /dev/null
}

no_task() { [ -z "$(docker ps -q)" ]; }

use_swarm() {
    docker swarm init --advertise-addr 192.0.2.1 > /dev/null
    cli=docker
    network='docker network create --driver overlay --attachable'
    one_answer=
    crash() {
        kill -9 "$dockerd"
        start_docker
    }
}

start_daemon() {
    ipvsmeshd >> /run/ipvsmeshd.log 2>&1 9>&- &
    daemon=$!
    until_true ipvsmesh node ls
}
