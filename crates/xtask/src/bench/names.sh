# 200 names of each server, asked by turns.

questions /run/questions 200
ours 200
dnsmasq_with 200

# aardvark-dns answers clients by their addresses
ip addr add 10.88.0.1/24 dev lo
ip addr add 10.88.0.2/24 dev lo
mkdir -p /run/aardvark
{
    echo 10.88.0.1
    for n in $(seq 0 199); do
        echo "$(printf '%064d' "$n") 10.88.0.$((n % 250 + 2))  service$n"
    done
} > /run/aardvark/bench
aardvark=$(command -v aardvark-dns || echo /usr/lib/podman/aardvark-dns)
"$aardvark" --config /run/aardvark --port 5303 run > /run/aardvark.log 2>&1 < /dev/null &
until_true dig +short +tries=1 -b 10.88.0.2 -p 5303 @10.88.0.1 service0

# Docker's answers in a container's namespace, where it has aliases
start_docker
images
docker network create bench > /dev/null
# one word a name is what this is for
# shellcheck disable=SC2046
docker run --detach --name names --network bench \
    $(for n in $(seq 0 199); do echo "--network-alias service$n"; done) bench:1 /bin/sleep 10000 > /dev/null
docker run --detach --name client --network bench bench:1 /bin/sleep 10000 > /dev/null
container=$(docker inspect --format '{{.State.Pid}}' client)
ip netns attach docker-client "$container"
until_true inside docker-client dig +short +tries=1 @127.0.0.11 service0

for _ in 1 2 3 4 5; do
    for measure in rate slow; do
        name=$measure
        [ $measure = slow ] && name=p99
        figure $name ours $measure 127.0.0.1 5301 /run/questions
        figure $name dnsmasq $measure 127.0.0.1 5302 /run/questions
        source_of=(-a 10.88.0.2)
        figure $name aardvark $measure 10.88.0.1 5303 /run/questions
        source_of=()
        asker=docker-client
        figure $name docker $measure 127.0.0.11 53 /run/questions
        asker=
    done
done
