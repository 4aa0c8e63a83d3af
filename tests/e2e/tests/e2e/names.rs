//! DNS, judged by `dig`, and by glibc's and musl's resolvers.

use e2e::{Node, until};

#[test]
fn names_resolve_as_documented() {
    let node = Node::started();
    node.cli("network create --ipv6=false back").ok();
    node.whoami(
        "vote",
        "--replicas 3 --network name=back,alias=poll --port-names http=80,game=99/udp",
    );
    node.whoami(
        "rr",
        "--replicas 2 --network back --endpoint-mode dnsrr --dns-ttl 4s --port-names http=80",
    );
    node.wait_running("vote", 3);
    node.wait_running("rr", 2);
    let dig = |question: &str| {
        let said = node
            .in_task("vote.1", &format!("dig +short +tries=1 +time=3 {question}"))
            .ok();
        let mut lines: Vec<_> = said.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let vip = node.vip("vote");
    let only = |address: &str| vec![address.to_owned()];
    assert_eq!(dig("vote"), only(&vip));
    assert_eq!(dig("VOTE"), only(&vip), "case does not matter");
    assert_eq!(dig("vote.back"), only(&vip));
    assert_eq!(dig("+tcp vote"), only(&vip));
    let tasks = dig("tasks.vote");
    assert_eq!(tasks.len(), 3);
    let first = node.in_task("vote.1", "hostname -I").ok();
    assert_eq!(dig("vote.1"), only(&first));
    assert!(tasks.contains(&first));
    assert_eq!(dig(&format!("-x {vip}")), ["vote.back."]);
    assert_eq!(dig(&format!("-x {first}")), ["vote.1.back."]);
    assert_eq!(dig("rr").len(), 2);
    assert_eq!(dig("poll"), only(&vip), "an alias");
    assert_eq!(dig("poll.back"), only(&vip));
    assert_eq!(dig("tasks.poll"), tasks);
    assert_eq!(dig("vote.back.ipvsmesh"), only(&vip));
    let id = node.cli("service ps --no-trunc -q vote").ok();
    let id = id.lines().next().unwrap_or_default().to_owned();
    assert_eq!(dig(&id).len(), 1, "a task's id");
    assert!(tasks.contains(&dig(&id)[0]));

    let said = |question: &str| {
        let line = format!("dig +tries=1 +time=3 +nocookie {question}");
        node.in_task("vote.1", &line).ok()
    };
    // SRV, with the addresses beside it
    assert_eq!(dig("SRV _http._tcp.vote"), ["0 1 80 vote.back."]);
    assert_eq!(dig("SRV _game._udp.vote.back"), ["0 1 99 vote.back."]);
    let srv = said("SRV _http._tcp.rr");
    for words in [
        "0 1 80 rr.1.back.",
        "0 1 80 rr.2.back.",
        "ANSWER: 2",
        "ADDITIONAL: 3",
    ] {
        assert!(srv.contains(words), "{srv}");
    }
    // how long, as the service says and else
    assert!(said("rr").contains("rr.\t\t\t4\tIN\tA"), "{}", said("rr"));
    assert!(
        said("vote").contains("vote.\t\t\t2\tIN\tA"),
        "{}",
        said("vote")
    );
    // "nothing of that kind" and "no such name", each with how long that holds
    let nodata = said("MX vote");
    for words in [
        "NOERROR",
        "ANSWER: 0",
        "AUTHORITY: 1",
        "SOA",
        "flags: qr aa rd ra",
    ] {
        assert!(nodata.contains(words), "{nodata}");
    }
    let missing = said("vote.9");
    assert!(
        missing.contains("NXDOMAIN") && missing.contains("SOA"),
        "{missing}"
    );
    assert!(said("-x 10.100.77.77").contains("NXDOMAIN"));
    assert!(
        said("VoTe").contains(";VoTe.") && said("VoTe").contains("\nVoTe."),
        "case is kept"
    );
    assert!(said("AXFR back").contains("Transfer failed"));

    // who is on another network only does not know them
    node.whoami("alone", "--replicas 1");
    node.wait_running("alone", 1);
    let other = node.in_task("alone.1", "dig +tries=1 +time=8 vote").ok();
    assert!(
        !other.contains(&vip) && !other.contains("NOERROR"),
        "{other}"
    );
    let reverse = node
        .in_task("alone.1", &format!("dig +tries=1 -x {vip}"))
        .ok();
    assert!(reverse.contains("NXDOMAIN"), "{reverse}");
    assert!(dig("AAAA vote").is_empty());
    let nodata = node.in_task("vote.1", "dig AAAA vote").ok();
    assert!(nodata.contains("NOERROR"), "{nodata}");
    let getent = node.in_task("vote.1", "getent ahostsv4 vote").ok();
    assert!(getent.contains(&vip), "{getent}");
    let musl = musl_lookup(&node);
    let musl = |name: &str| node.in_task("vote.1", &format!("{musl} {name}"));
    assert_eq!(musl("vote").ok().lines().collect::<Vec<_>>(), [&vip]);
    assert_eq!(musl("vote.back").ok().lines().collect::<Vec<_>>(), [&vip]);
    assert_eq!(musl("rr").ok().lines().count(), 2);
    musl("nosuch.ipvsmesh").fails(1, &["Name does not resolve"]);

    node.cli("service rm rr").ok();
    until("the name is gone", 10, || {
        dig("rr").is_empty().then_some(())
    });
}

/// A program that asks musl, which nothing else in the lab is built with: its path.
fn musl_lookup(node: &Node) -> String {
    let source = include_str!("../../../data/lookup.c");
    let path = format!("/tmp/{}-lookup", node.instance);
    std::fs::write(format!("{path}.c"), source).expect("/tmp can be written");
    let musl = "/usr/lib/x86_64-linux-musl";
    node.on_host(&format!(
        "tcc -static -nostdlib -nostdinc -I /usr/include/x86_64-linux-musl -o {path} \
         {musl}/crt1.o {musl}/crti.o {path}.c {musl}/libc.a \
         /usr/lib/x86_64-linux-gnu/tcc/libtcc1.a {musl}/crtn.o"
    ))
    .ok();
    path
}

#[test]
fn only_running_tasks_are_named() {
    let node = Node::started();
    node.whoami("rr", "--replicas 3 --endpoint-mode dnsrr");
    node.whoami("client", "--replicas 1");
    node.wait_running("rr", 3);
    node.wait_running("client", 1);
    let count = || {
        let said = node
            .in_task("client.1", "dig +short +tries=1 +time=3 rr")
            .ok();
        said.lines().count()
    };
    assert_eq!(count(), 3);
    node.cli("service scale rr=1").ok();
    node.wait_running("rr", 1);
    until("one is left", 10, || (count() == 1).then_some(()));
    node.cli("service scale rr=0").ok();
    node.wait_running("rr", 0);
    until("none is left", 10, || (count() == 0).then_some(()));
    let said = node.in_task("client.1", "dig rr").ok();
    assert!(said.contains("NOERROR"), "the name exists: {said}");
}

#[test]
fn a_large_set_is_cut_by_udp_and_whole_by_tcp() {
    let node = Node::started();
    // servers of others, so that as many tasks need no processes
    let endpoints: String = (0..500)
        .map(|n| format!(" --endpoint 198.51.{}.{}", 100 + n / 250, 1 + n % 250))
        .collect();
    node.cli(&format!(
        "service create --quiet --name many --endpoint-mode dnsrr --runtime static{endpoints}"
    ))
    .ok();
    node.whoami("web", "");
    node.wait_running("web", 1);
    node.wait_running("many", 500);
    let ask = |how: &str| {
        let line = format!("dig +tries=1 +time=5 +nocookie {how} many");
        node.in_task("web.1", &line).ok()
    };
    let cut = ask("+noedns +ignore");
    assert!(
        cut.contains("flags: qr aa tc") && cut.contains("ANSWER: 29"),
        "{cut}"
    );
    let cut = ask("+bufsize=1232 +ignore");
    assert!(
        cut.contains("flags: qr aa tc") && cut.contains("ANSWER: 74"),
        "{cut}"
    );
    for how in ["+noedns", "+bufsize=1232"] {
        let whole = ask(how);
        assert!(
            whole.contains("ANSWER: 500") && whole.contains("(TCP)"),
            "{whole}"
        );
    }
    let all = node.in_task("web.1", "getent ahostsv4 many").ok();
    assert_eq!(all.matches("STREAM").count(), 500, "{all}");
}

#[test]
fn garbage_and_floods_do_not_stop_it() {
    let node = Node::started();
    node.whoami("vote", "--replicas 1");
    node.wait_running("vote", 1);
    let line = r#"server=$(sed -n "s/nameserver //p" /etc/resolv.conf | head -1)
        for n in 1 2 3 4; do head -c 3000 /dev/urandom | socat -u -b 300 - UDP:$server:53; done
        head -c 100000 /dev/urandom | socat -u - TCP:$server:53
        for n in $(seq 200); do exec {fd}<> /dev/tcp/$server/53; done
        exec {flood}<> /dev/udp/$server/53
        flags="\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
        for n in $(seq 100 199); do
          printf -v id "\\\\x01\\\\x%02x" $n
          printf "$id$flags\x04n$n\x07example\x03com\x00\x00\x01\x00\x01" >&$flood
        done
        dig +short +tries=1 +time=3 vote; dig +tcp +short +tries=1 +time=3 vote
        echo $(timeout 3 head -c 100 <&$flood | wc -c) octets for the flood"#;
    let said = node.sh_in_task("vote.1", line);
    assert_eq!(said.out.matches(&node.vip("vote")).count(), 2, "{said:?}");
    // its questions were ones: they are answered, or refused
    assert!(said.out.contains("\n100 octets for the flood"), "{said:?}");
}
