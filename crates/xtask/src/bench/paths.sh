# VIPs and published ports, each beside what one would have without the mesh.
start_mesh
leave_mesh
plain_through_mesh
plain
swarm
until_true requests "$client" "$vip"
until_true requests b-out 192.0.2.1:8080
until_true requests b-out 192.0.2.10:8080
until_true requests p-out 192.0.2.1:8080
until_true requests s-out 192.0.2.1:8080

# in turns, so that whatever changes with time changes all sides
for _ in 1 2 3 4 5; do
    all_three vip "$client" "$vip" 80
    all_three direct "$other" "$task" 80
    all_three port b-out 192.0.2.1 8080
    all_three plain b-out 192.0.2.10 8080
    all_three bare p-out 192.0.2.1 8080
    all_three swarm s-out 192.0.2.1 8080
done
