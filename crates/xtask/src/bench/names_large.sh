# 10,000 services: what they take, and how fast a change of one is answered.

questions /run/questions 10000
ours 10000 --changes 40
dnsmasq_with 10000
figure memory ours megabytes "$responder"
figure memory dnsmasq megabytes "$dnsmasq"
for _ in 1 2 3; do
    figure large-rate ours rate 127.0.0.1 5301 /run/questions
    figure large-rate dnsmasq rate 127.0.0.1 5302 /run/questions
done
figure memory ours megabytes "$responder"
figure memory dnsmasq megabytes "$dnsmasq"
