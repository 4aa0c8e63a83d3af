//! The whole responder on loopback sockets, before servers that only pretend.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Edns, Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use model::names::{Change, Update};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    Config, Error, Predecessor, Sockets, Status, request,
    server::{Limits, run},
    tcp::{read_message, write_message},
    testing::{names, network, replace, sees, service, service_id},
};

/// On a network that may ask the outside.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
/// On one that may not.
const INTERNAL: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 12));
const SOON: Duration = Duration::from_secs(5);

/// `vote`, whose address says the revision, and `many`; asking these servers for others.
fn snapshot(revision: u64, upstreams: Vec<IpAddr>) -> Names {
    let vote = service("vote", &[&version(revision).to_string()], &[]);
    let mut many = service("many", &[], &vec![&[][..]; 500]);
    for (n, task) in (0..).zip(&mut many.tasks) {
        task.addresses = [IpAddr::from(numbered(n))].into();
    }
    let clients = [(CLIENT, sees(&[1], true)), (INTERNAL, sees(&[1], false))];
    let mut update = names(&[(1, "back", &[vote, many])], &clients);
    update.revision = revision;
    Names { update, upstreams }
}

struct Names {
    update: Update,
    upstreams: Vec<IpAddr>,
}

impl Names {
    fn resolv_conf(&self) -> String {
        let servers = self.upstreams.iter();
        servers.map(|ip| format!("nameserver {ip}\n")).collect()
    }
}

/// The address of `vote` at a revision.
fn version(revision: u64) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + u32::try_from(revision).unwrap())
}

fn numbered(n: u16) -> Ipv4Addr {
    Ipv4Addr::from(0x0a64_0000 + u32::from(n))
}

/// A responder in this process.
struct Responder {
    dns: SocketAddr,
    dir: tempfile::TempDir,
    control: PathBuf,
    task: JoinHandle<Result<(), Error>>,
}

impl Responder {
    async fn start(names: &Names, limits: Limits) -> Self {
        Self::start_on("0.0.0.0", names, limits).await
    }

    async fn start_on(at: &str, names: &Names, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("dns.sock");
        let resolv_conf = dir.path().join("resolv.conf");
        fs::write(&resolv_conf, names.resolv_conf()).unwrap();
        // the same port for both, which one of them may have lost to another test
        let (udp, tcp) = loop {
            let tcp = std::net::TcpListener::bind(format!("{at}:0")).unwrap();
            let port = tcp.local_addr().unwrap().port();
            if let Ok(udp) = std::net::UdpSocket::bind(format!("{at}:{port}")) {
                break (udp, tcp);
            }
        };
        let dns = (Ipv4Addr::LOCALHOST, tcp.local_addr().unwrap().port()).into();
        let listener = std::os::unix::net::UnixListener::bind(&control).unwrap();
        let config = Config {
            resolv_conf,
            predecessor: None,
        };
        let sockets = Sockets {
            udp: vec![udp],
            tcp: vec![tcp],
            place: 1,
        };
        let task = tokio::spawn(run(config, limits, sockets, listener));
        let responder = Self {
            dns,
            dir,
            control,
            task,
        };
        responder.update(names.update.clone()).await.unwrap();
        responder
    }

    async fn update(&self, update: Update) -> Result<(), Error> {
        crate::update(&self.control, std::iter::once(update), SOON).await
    }

    async fn tell(&self, line: &str) -> Result<String, Error> {
        request(&self.control, line, SOON).await
    }

    async fn status(&self) -> Status {
        serde_json::from_str(&self.tell("status").await.unwrap()).unwrap()
    }

    async fn udp(&self, client: IpAddr, packet: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind((client, 0)).await.unwrap();
        socket.connect(self.dns).await.unwrap();
        socket.send(packet).await.unwrap();
        receive(&socket).await
    }

    async fn tcp(&self, client: IpAddr) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((client, 0).into()).unwrap();
        socket.connect(self.dns).await.unwrap()
    }

    async fn ask(&self, client: IpAddr, message: &Message) -> Message {
        parse(&self.udp(client, &message.to_vec().unwrap()).await)
    }

    async fn ask_tcp(&self, client: IpAddr, message: &Message) -> Message {
        exchange(&mut self.tcp(client).await, message)
            .await
            .unwrap()
    }
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65535];
    let length = timeout(SOON, socket.recv(&mut buffer))
        .await
        .expect("no answer")
        .unwrap();
    buffer.truncate(length);
    buffer
}

/// `None` if the connection is closed instead.
async fn exchange(stream: &mut TcpStream, message: &Message) -> Option<Message> {
    write_message(stream, &message.to_vec().unwrap())
        .await
        .ok()?;
    let reply = timeout(SOON, read_message(stream))
        .await
        .expect("no answer")
        .ok()??;
    Some(parse(&reply))
}

fn parse(packet: &[u8]) -> Message {
    Message::from_vec(packet).unwrap()
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, size: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.set_edns(edns);
    message
}

fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &Record| match record.data {
        RData::A(A(address)) => address,
        ref other => panic!("{other}"),
    };
    message.answers.iter().map(address).collect()
}

type Script = dyn Fn(&[u8], bool) -> Vec<Vec<u8>> + Send + Sync;

/// A packet, and the port it came from.
type Asked = (Vec<u8>, u16);

/// A server that answers what its script says: for a packet, and whether that
/// came by TCP, the packets to send.
struct Upstream {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Upstream {
    async fn start(
        at: SocketAddr,
        script: impl Fn(&[u8], bool) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let script: Arc<Script> = Arc::new(script);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind(at).await.unwrap();
            match UdpSocket::bind(tcp.local_addr().unwrap()).await {
                Ok(udp) => break (tcp, udp),
                Err(error) => assert_eq!(at.port(), 0, "{error}"),
            }
        };
        let address = udp.local_addr().unwrap();
        let (by_udp, seen) = (script.clone(), asked.clone());
        let udp = tokio::spawn(async move {
            let mut buffer = vec![0; 65535];
            loop {
                let (length, peer) = udp.recv_from(&mut buffer).await.unwrap();
                seen.lock()
                    .unwrap()
                    .push((buffer[..length].to_vec(), peer.port()));
                for reply in by_udp(&buffer[..length], false) {
                    udp.send_to(&reply, peer).await.unwrap();
                }
            }
        });
        let tcp = tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let packet = read_message(&mut stream).await.unwrap().unwrap();
                for reply in script(&packet, true) {
                    write_message(&mut stream, &reply).await.unwrap();
                }
            }
        });
        Self {
            address,
            asked,
            tasks: [udp, tcp],
        }
    }

    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn on(last: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 1, last], 0))
}

/// Answers with 192.0.2.LAST.
fn says(last: u8) -> impl Fn(&[u8], bool) -> Vec<Vec<u8>> + Send + Sync + 'static {
    move |packet, _| vec![answer(&parse(packet), ResponseCode::NoError, &[last])]
}

fn fails(code: ResponseCode) -> impl Fn(&[u8], bool) -> Vec<Vec<u8>> + Send + Sync + 'static {
    move |packet, _| vec![answer(&parse(packet), code, &[])]
}

fn answer(question: &Message, code: ResponseCode, last: &[u8]) -> Vec<u8> {
    let mut reply = question.clone();
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    for last in last {
        let data = RData::A(A::new(192, 0, 2, *last));
        reply.add_answer(Record::from_rdata(
            question.queries[0].name().clone(),
            60,
            data,
        ));
    }
    reply.to_vec().unwrap()
}

/// A responder and servers 127.0.1.1, 127.0.1.2, ... on one port, of which the
/// first is given.
async fn before(upstreams: &[&Upstream]) -> Responder {
    before_patiently(upstreams, Duration::from_millis(300)).await
}

async fn before_patiently(upstreams: &[&Upstream], patience: Duration) -> Responder {
    let addresses = upstreams
        .iter()
        .map(|upstream| upstream.address.ip())
        .collect();
    let limits = Limits {
        port: upstreams[0].address.port(),
        patience,
        ..Limits::default()
    };
    Responder::start(&snapshot(1, addresses), limits).await
}

/// Another server, on the port of the first.
fn beside(first: &Upstream, last: u8) -> SocketAddr {
    SocketAddr::new(on(last).ip(), first.address.port())
}

#[tokio::test]
async fn names_by_udp_and_tcp() {
    let responder = Responder::start(&snapshot(1, vec![]), Limits::default()).await;
    for name in ["vote.", "VOTE.", "vote.back."] {
        let message = question(name, RecordType::A);
        let by_udp = responder.ask(CLIENT, &message).await;
        let by_tcp = responder.ask_tcp(CLIENT, &message).await;
        assert_eq!(by_udp, by_tcp);
        assert_eq!(addresses(&by_udp), [version(1)]);
        assert_eq!(by_udp.queries[0].name().to_string(), name);
    }
}

#[tokio::test]
async fn answers_come_from_the_address_that_was_asked() {
    let message = question("vote.", RecordType::A);
    // by IPv6 as well, which shows IPv4 clients in its own way
    let names = snapshot(1, vec![]);
    let mut responder = Responder::start_on("[::]", &names, Limits::default()).await;
    let local: IpAddr = "::1".parse().unwrap();
    responder.dns.set_ip(local);
    let reply = responder.ask(local, &message).await;
    assert_eq!(
        reply.response_code,
        ResponseCode::ServFail,
        "this host sees no names"
    );
    for last in [1, 2, 77] {
        responder.dns.set_ip(IpAddr::from([127, 0, 0, last]));
        assert_eq!(
            addresses(&responder.ask(CLIENT, &message).await),
            [version(1)]
        );
    }

    let mut responder = Responder::start(&names, Limits::default()).await;
    for last in [1, 2, 77] {
        // the client's socket is connected: it gets nothing from other addresses
        responder.dns.set_ip(IpAddr::from([127, 0, 0, last]));
        assert_eq!(
            addresses(&responder.ask(CLIENT, &message).await),
            [version(1)]
        );
    }
}

#[tokio::test]
async fn large_sets_are_cut_by_udp_and_whole_by_tcp() {
    let responder = Responder::start(&snapshot(1, vec![]), Limits::default()).await;
    let message = question("tasks.many.", RecordType::A);
    let plain = responder.ask(CLIENT, &message).await;
    assert!(
        plain.truncation && plain.answers.len() == 29,
        "{}",
        plain.answers.len()
    );
    let edns = responder
        .ask(CLIENT, &with_edns(message.clone(), 1232))
        .await;
    assert!(
        edns.truncation && edns.answers.len() == 74,
        "{}",
        edns.answers.len()
    );
    let whole = responder.ask_tcp(CLIENT, &message).await;
    assert!(!whole.truncation);
    let all: HashSet<_> = addresses(&whole).into_iter().collect();
    assert_eq!(all, (0..500).map(numbered).collect());
}

#[tokio::test]
async fn one_connection_takes_many_questions_until_it_is_idle() {
    let limits = Limits {
        idle: Duration::from_millis(200),
        ..Limits::default()
    };
    let responder = Responder::start(&snapshot(1, vec![]), limits).await;
    let mut stream = responder.tcp(CLIENT).await;
    for _ in 0..3 {
        let reply = exchange(&mut stream, &question("vote.", RecordType::A))
            .await
            .unwrap();
        assert_eq!(addresses(&reply), [version(1)]);
    }
    // half a message is as good as none
    stream.write_all(&[0]).await.unwrap();
    let closed = timeout(SOON, read_message(&mut stream)).await.unwrap();
    assert!(matches!(closed, Ok(None) | Err(_)));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let limits = Limits {
        connections: 2,
        idle: Duration::from_millis(300),
        ..Limits::default()
    };
    let responder = Responder::start(&snapshot(1, vec![]), limits).await;
    let _idle = (responder.tcp(CLIENT).await, responder.tcp(CLIENT).await);
    let reply = responder
        .ask_tcp(CLIENT, &question("vote.", RecordType::A))
        .await;
    assert_eq!(addresses(&reply), [version(1)]);
}

#[tokio::test]
async fn other_names_are_passed_on_byte_for_byte() {
    // a record of a type that nobody knows, with data that is no name
    let upstream = Upstream::start(on(1), |packet, _| {
        let mut reply = packet.to_vec();
        reply[2] |= 0x80;
        reply[7] = 1;
        let record = [
            0xc0, 12, 0xff, 0x00, 0, 1, 0, 0, 0, 60, 0, 4, 0xc0, 0xff, 0xee, 0x00,
        ];
        reply.extend(record);
        vec![reply]
    })
    .await;
    let responder = before(&[&upstream]).await;
    let mut packets = HashSet::new();
    for n in 0..8 {
        let packet = question(&format!("ExAmPle{n}.com."), RecordType::Unknown(0xff00))
            .to_vec()
            .unwrap();
        let reply = responder.udp(CLIENT, &packet).await;
        let mut want = packet.clone();
        want[2] |= 0x80;
        want[7] = 1;
        assert_eq!(reply[..packet.len()], want);
        assert_eq!(reply[packet.len() + 12..], [0xc0, 0xff, 0xee, 0x00]);
        packets.insert(packet);
    }
    let asked = upstream.asked.lock().unwrap().clone();
    let ids: HashSet<_> = asked
        .iter()
        .map(|(packet, _)| packet[..2].to_vec())
        .collect();
    let ports: HashSet<_> = asked.iter().map(|(_, port)| *port).collect();
    // drawn anew each time: two of eight may be the same once in a long while
    assert!(ids.len() >= 7 && ports.len() >= 6, "{ids:?} {ports:?}");
    assert!(
        asked.iter().all(|(packet, _)| !packets.contains(packet)),
        "the client's id"
    );
    assert_eq!(responder.status().await.forwarded, 8);
}

#[tokio::test]
async fn this_host_is_forwarded_for_but_sees_no_names() {
    let upstream = Upstream::start(on(1), says(7)).await;
    let responder = before(&[&upstream]).await;
    let local = Ipv4Addr::LOCALHOST.into();
    for name in ["vote.", "example.com."] {
        let reply = responder.ask(local, &question(name, RecordType::A)).await;
        assert_eq!(addresses(&reply), [Ipv4Addr::new(192, 0, 2, 7)]);
    }
}

#[tokio::test]
async fn internal_networks_do_not_reach_the_outside() {
    let upstream = Upstream::start(on(1), says(7)).await;
    let responder = before(&[&upstream]).await;
    let ours = responder
        .ask(INTERNAL, &question("vote.", RecordType::A))
        .await;
    assert_eq!(addresses(&ours), [version(1)]);
    let reply = responder
        .ask(INTERNAL, &question("example.com.", RecordType::A))
        .await;
    assert_eq!(reply.response_code, ResponseCode::NXDomain);
    assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_silent_server_is_passed_over() {
    let silent = Upstream::start(on(1), |_, _| Vec::new()).await;
    let good = Upstream::start(beside(&silent, 2), says(2)).await;
    let responder = before(&[&silent, &good]).await;
    let reply = responder
        .ask(CLIENT, &question("example.com.", RecordType::A))
        .await;
    assert_eq!(addresses(&reply), [Ipv4Addr::new(192, 0, 2, 2)]);
    assert_eq!((silent.count(), good.count()), (1, 1));
}

#[tokio::test]
async fn a_dead_server_is_passed_over_at_once() {
    let good = Upstream::start(on(2), says(2)).await;
    let limits = Limits {
        port: good.address.port(),
        patience: Duration::from_secs(60),
        ..Limits::default()
    };
    let upstreams = vec![on(1).ip(), good.address.ip()];
    let responder = Responder::start(&snapshot(1, upstreams), limits).await;
    let reply = responder
        .ask(CLIENT, &question("example.com.", RecordType::A))
        .await;
    assert_eq!(addresses(&reply), [Ipv4Addr::new(192, 0, 2, 2)]);
}

#[tokio::test]
async fn a_failing_server_is_believed_only_if_all_fail() {
    let first = Upstream::start(on(1), fails(ResponseCode::ServFail)).await;
    let second = Upstream::start(beside(&first, 2), fails(ResponseCode::Refused)).await;
    let third = Upstream::start(beside(&first, 3), fails(ResponseCode::NXDomain)).await;
    let message = question("example.com.", RecordType::A);
    for (upstreams, code) in [
        (vec![&first, &second, &third], ResponseCode::NXDomain),
        (vec![&first, &second], ResponseCode::Refused),
    ] {
        let responder = before(&upstreams).await;
        assert_eq!(responder.ask(CLIENT, &message).await.response_code, code);
    }
}

#[tokio::test]
async fn without_a_server_that_answers_it_is_servfail() {
    let silent = Upstream::start(on(1), |_, _| Vec::new()).await;
    let message = question("example.com.", RecordType::A);
    let responder = before(&[&silent]).await;
    let reply = responder.ask(CLIENT, &message).await;
    assert_eq!(reply.response_code, ResponseCode::ServFail);
    let responder = Responder::start(&snapshot(1, vec![]), Limits::default()).await;
    let reply = responder.ask_tcp(CLIENT, &message).await;
    assert_eq!(reply.response_code, ResponseCode::ServFail);
    assert_eq!(reply.id, message.id);
}

#[tokio::test]
async fn answers_to_something_else_are_not_taken() {
    let upstream = Upstream::start(on(1), |packet, _| {
        let asked = parse(packet);
        let mut other_id = asked.clone();
        other_id.metadata.id ^= 1;
        let mut other_name = asked.clone();
        other_name.queries[0].set_name(Name::from_ascii("example.org.").unwrap());
        let mut other_type = asked.clone();
        other_type.queries[0].set_query_type(RecordType::TXT);
        let wrong = [other_id, other_name, other_type];
        let wrong = wrong
            .iter()
            .map(|message| answer(message, ResponseCode::NoError, &[66]));
        // the question itself, and what is no message at all
        let echo = [packet.to_vec(), b"?".to_vec()];
        let right = answer(&asked, ResponseCode::NoError, &[7]);
        wrong.chain(echo).chain([right]).collect()
    })
    .await;
    let responder = before(&[&upstream]).await;
    let reply = responder
        .ask(CLIENT, &question("example.com.", RecordType::A))
        .await;
    assert_eq!(addresses(&reply), [Ipv4Addr::new(192, 0, 2, 7)]);
}

#[tokio::test]
async fn truncated_answers_are_fetched_by_tcp_for_those_who_came_by_tcp() {
    let upstream = Upstream::start(on(1), |packet, tcp| {
        let mut asked = parse(packet);
        asked.metadata.truncation = !tcp;
        let all: Vec<u8> = if tcp { (0..200).collect() } else { vec![0] };
        vec![answer(&asked, ResponseCode::NoError, &all)]
    })
    .await;
    let responder = before(&[&upstream]).await;
    let message = question("example.com.", RecordType::A);
    let by_udp = responder.ask(CLIENT, &message).await;
    assert!(by_udp.truncation && by_udp.answers.len() == 1);
    let by_tcp = responder.ask_tcp(CLIENT, &message).await;
    assert!(!by_tcp.truncation && by_tcp.answers.len() == 200);
    assert_eq!(by_tcp.id, message.id);
}

#[tokio::test]
async fn large_answers_pass_to_clients_that_take_them() {
    let upstream = Upstream::start(on(1), |packet, _| {
        let all: Vec<u8> = (0..250).collect();
        vec![answer(&parse(packet), ResponseCode::NoError, &all)]
    })
    .await;
    let responder = before(&[&upstream]).await;
    // more than we ourselves send
    let message = with_edns(question("example.com.", RecordType::A), 8192);
    let packet = message.to_vec().unwrap();
    let reply = responder.udp(CLIENT, &packet).await;
    assert!(reply.len() > 5000);
    let reply = parse(&reply);
    assert_eq!(reply.answers.len(), 250);
    assert_eq!(reply.edns.map(|edns| edns.max_payload()), Some(8192));
}

#[tokio::test]
async fn no_more_than_so_many_questions_wait_for_others() {
    let silent = Upstream::start(on(1), |_, _| Vec::new()).await;
    let limits = Limits {
        port: silent.address.port(),
        patience: Duration::from_secs(60),
        forwards: 4,
        ..Limits::default()
    };
    let responder = Responder::start(&snapshot(1, vec![silent.address.ip()]), limits).await;
    let socket = UdpSocket::bind((CLIENT, 0)).await.unwrap();
    socket.connect(responder.dns).await.unwrap();
    for _ in 0..10 {
        let packet = question("example.com.", RecordType::A).to_vec().unwrap();
        socket.send(&packet).await.unwrap();
    }
    for _ in 0..6 {
        let reply = parse(&receive(&socket).await);
        assert_eq!(reply.response_code, ResponseCode::ServFail);
    }
    // our own names do not suffer
    let reply = responder
        .ask(CLIENT, &question("vote.", RecordType::A))
        .await;
    assert_eq!(addresses(&reply), [version(1)]);
    assert_eq!(responder.status().await.forwarded, 4);
    // nor does the end
    let before = Instant::now();
    responder.tell("quit").await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn garbage_is_survived() {
    let responder = Responder::start(&snapshot(1, vec![]), Limits::default()).await;
    let socket = UdpSocket::bind((CLIENT, 0)).await.unwrap();
    socket.connect(responder.dns).await.unwrap();
    let mut seed = 1u32;
    let mut byte = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed.to_be_bytes()[0]
    };
    for length in 0..300 {
        let garbage: Vec<u8> = (0..length).map(|_| byte()).collect();
        socket.send(&garbage).await.unwrap();
        let mut stream = responder.tcp(CLIENT).await;
        let _ = stream.write_all(&garbage).await;
    }
    let message = question("vote.", RecordType::A);
    assert_eq!(
        addresses(&responder.ask(CLIENT, &message).await),
        [version(1)]
    );
    assert_eq!(
        addresses(&responder.ask_tcp(CLIENT, &message).await),
        [version(1)]
    );
}

#[tokio::test]
async fn an_update_changes_the_next_answer() {
    let responder = Responder::start(&snapshot(1, vec![]), Limits::default()).await;
    let message = question("vote.", RecordType::A);
    assert_eq!(
        addresses(&responder.ask(CLIENT, &message).await),
        [version(1)]
    );
    for revision in 2..50 {
        // a change of one service, and all anew, by turns
        let update = match revision % 2 {
            0 => change(revision - 1, revision),
            _ => snapshot(revision, vec![]).update,
        };
        responder.update(update).await.unwrap();
        assert_eq!(
            addresses(&responder.ask(CLIENT, &message).await),
            [version(revision)]
        );
    }
    let gone = Update {
        changes: vec![Change::Service(network(1), service_id(1), None)],
        ..change(49, 50)
    };
    responder.update(gone).await.unwrap();
    let reply = responder.ask(INTERNAL, &message).await;
    assert_eq!(reply.response_code, ResponseCode::NXDomain);
}

/// `vote` has another address.
fn change(since: u64, revision: u64) -> Update {
    let vote = service("vote", &[&version(revision).to_string()], &[]);
    Update {
        since: Some(since),
        revision,
        more: false,
        changes: vec![Change::Service(network(1), service_id(1), Some(vote))],
    }
}

#[tokio::test]
async fn a_damaged_update_changes_nothing() {
    let responder = Responder::start(&snapshot(3, vec![]), Limits::default()).await;
    let whole = serde_json::to_string(&snapshot(4, vec![]).update).unwrap();
    for damaged in [&whole[..whole.len() / 2], "", "{}", "[]"] {
        let answer = responder.tell(&format!("update {damaged}")).await;
        assert!(matches!(answer, Err(Error::Refused { .. })), "{answer:?}");
    }
    // one that does not lead on from what there is
    let answer = responder.update(change(2, 4)).await;
    let Err(Error::Refused { reason, .. }) = answer else {
        panic!("{answer:?}");
    };
    assert!(reason.contains("revision 3"), "{reason}");
    // and one whose end never comes
    let part = Update {
        more: true,
        ..snapshot(4, vec![]).update
    };
    responder.update(part).await.unwrap();
    assert_eq!(responder.status().await.revision, 3);
    let reply = responder
        .ask(CLIENT, &question("vote.", RecordType::A))
        .await;
    assert_eq!(addresses(&reply), [version(3)]);
}

#[tokio::test]
async fn another_takes_over_between_two_questions() {
    let old = Responder::start(&snapshot(1, vec![]), Limits::default()).await;
    let socket = UdpSocket::bind((CLIENT, 0)).await.unwrap();
    socket.connect(old.dns).await.unwrap();
    let message = question("vote.", RecordType::A);
    let control = old.control.clone();
    let (predecessor, sockets) = tokio::task::spawn_blocking(move || Predecessor::find(&control))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (sockets.udp.len(), sockets.tcp.len(), sockets.place),
        (1, 1, 1)
    );
    let path = old.dir.path().join("new.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let config = Config {
        resolv_conf: old.dir.path().join("resolv.conf"),
        predecessor: Some(predecessor),
    };
    // on a thread of its own, as it is a process of its own: it waits for the old one
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime
            .unwrap()
            .block_on(run(config, Limits::default(), sockets, listener))
            .unwrap();
    });
    let ask = async || {
        socket.send(&message.to_vec().unwrap()).await.unwrap();
        addresses(&parse(&receive(&socket).await))
    };
    for _ in 0..50 {
        assert_eq!(ask().await, [version(1)], "the new one has no names");
    }
    let new = std::iter::once(snapshot(2, vec![]).update);
    crate::update(&path, new, SOON).await.unwrap();
    for _ in 0..50 {
        assert_eq!(ask().await, [version(2)]);
    }
    let reply = old.ask_tcp(CLIENT, &message).await;
    assert_eq!(addresses(&reply), [version(2)]);
    timeout(SOON, old.task).await.unwrap().unwrap().unwrap();
    let status = request(&path, "status", SOON).await.unwrap();
    let status: Status = serde_json::from_str(&status).unwrap();
    assert_eq!((status.queries, status.tcp, status.answered), (51, 1, 51));
    request(&path, "quit", SOON).await.unwrap();
}

#[tokio::test]
async fn a_name_that_was_asked_for_is_not_asked_for_again() {
    let upstream = Upstream::start(on(1), says(7)).await;
    let responder = before(&[&upstream]).await;
    for name in ["example.com.", "EXAMPLE.com."] {
        let reply = responder.ask(CLIENT, &question(name, RecordType::A)).await;
        assert_eq!(addresses(&reply), [Ipv4Addr::new(192, 0, 2, 7)]);
        assert_eq!(reply.queries[0].name().to_string(), name);
        assert_eq!(reply.answers[0].ttl, 60);
    }
    assert_eq!(upstream.count(), 1);
    responder
        .ask(CLIENT, &question("example.com.", RecordType::AAAA))
        .await;
    let status = responder.status().await;
    assert_eq!((status.forwarded, status.cached), (2, 1));
}

#[tokio::test]
async fn the_hosts_servers_are_those_of_the_file_as_it_is() {
    let first = Upstream::start(on(1), says(1)).await;
    let second = Upstream::start(beside(&first, 2), says(2)).await;
    let responder = before(&[&first]).await;
    let message = question("example.com.", RecordType::A);
    assert_eq!(
        addresses(&responder.ask(CLIENT, &message).await),
        [Ipv4Addr::new(192, 0, 2, 1)]
    );
    let text = format!("nameserver {}\n", second.address.ip());
    replace(&responder.dir.path().join("resolv.conf"), &text);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // nor is what the old ones said remembered
    assert_eq!(
        addresses(&responder.ask(CLIENT, &message).await),
        [Ipv4Addr::new(192, 0, 2, 2)]
    );
}

#[tokio::test]
async fn a_client_may_have_servers_of_its_own_and_we_never_ask_ourselves() {
    let host = Upstream::start(on(1), says(1)).await;
    let own = Upstream::start(beside(&host, 2), says(2)).await;
    let mut names = snapshot(1, vec![IpAddr::from([10, 200, 0, 0]), host.address.ip()]);
    let other = IpAddr::from([127, 0, 0, 13]);
    let client = model::names::Client {
        servers: [own.address.ip()].into(),
        ..sees(&[1], true)
    };
    names
        .update
        .changes
        .push(Change::Client(other, Some(client)));
    let limits = Limits {
        port: host.address.port(),
        patience: Duration::from_secs(60),
        ..Limits::default()
    };
    let responder = Responder::start(&names, limits).await;
    let message = question("example.com.", RecordType::A);
    for (client, last) in [(CLIENT, 1), (other, 2), (CLIENT, 1)] {
        let reply = responder.ask(client, &message).await;
        assert_eq!(addresses(&reply), [Ipv4Addr::new(192, 0, 2, last)]);
    }
    let ours = responder
        .ask(other, &question("vote.", RecordType::A))
        .await;
    assert_eq!(addresses(&ours), [version(1)]);
}

#[tokio::test]
async fn status_counts() {
    let responder = Responder::start(&snapshot(3, vec![]), Limits::default()).await;
    let before = responder.status().await;
    let fresh = Status {
        revision: 3,
        pid: std::process::id(),
        place: 1,
        ..Status::default()
    };
    assert_eq!(before, fresh);
    for _ in 0..5 {
        responder
            .ask(CLIENT, &question("vote.", RecordType::A))
            .await;
    }
    responder
        .ask_tcp(CLIENT, &question("vote.", RecordType::A))
        .await;
    responder
        .ask(CLIENT, &question("vote.", RecordType::AAAA))
        .await;
    responder
        .ask(CLIENT, &question("vote.", RecordType::AXFR))
        .await;
    responder
        .ask(CLIENT, &question("example.com.", RecordType::A))
        .await;
    let after = Status {
        queries: 9,
        tcp: 1,
        answered: 6,
        denied: 1,
        refused: 1,
        failed: 1,
        ..fresh
    };
    assert_eq!(responder.status().await, after);
}

#[tokio::test]
async fn unknown_commands_are_refused() {
    let responder = Responder::start(&snapshot(3, vec![]), Limits::default()).await;
    for line in ["", "stop", "status now", "update", &"x".repeat(1000)] {
        assert!(
            matches!(responder.tell(line).await, Err(Error::Refused { .. })),
            "{line}"
        );
    }
    assert_eq!(responder.status().await.revision, 3);
}

#[tokio::test]
async fn after_quit_the_addresses_are_free() {
    let responder = Responder::start(&snapshot(3, vec![]), Limits::default()).await;
    // connections that are open, of all kinds, do not keep it
    let mut stream = responder.tcp(CLIENT).await;
    exchange(&mut stream, &question("vote.", RecordType::A))
        .await
        .unwrap();
    let idle = tokio::net::UnixStream::connect(&responder.control)
        .await
        .unwrap();

    assert_eq!(responder.tell("quit").await.unwrap(), "ok");
    let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, responder.dns.port()));
    std::net::UdpSocket::bind(at).unwrap();
    std::net::TcpListener::bind(at).unwrap();
    timeout(SOON, responder.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let gone = request(&responder.control, "status", SOON).await;
    assert!(matches!(gone, Err(Error::Unreachable { .. })), "{gone:?}");
    drop(idle);
}

#[tokio::test]
async fn nobody_answers_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("dns.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let waited = request(&socket, "status", Duration::from_millis(50)).await;
    assert!(
        matches!(waited, Err(Error::Unreachable { .. })),
        "{waited:?}"
    );
}
