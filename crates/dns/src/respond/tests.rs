use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{RecordType, rdata::A},
};
use proptest::prelude::*;

use super::*;
use crate::{
    testing::{With as _, names, sees, service, taken},
    wire::DATAGRAM,
};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 100, 0, 2));

fn snapshot(tasks: u16, v6: bool) -> Names {
    let address = |n: u16| match v6 {
        true => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]),
        false => IpAddr::from([10, 100, n.to_be_bytes()[0], n.to_be_bytes()[1]]),
    };
    let mut vote =
        service("vote", &[], &vec![&[][..]; tasks.into()]).port("http", model::Protocol::Tcp, 80);
    for (n, task) in (0..).zip(&mut vote.tasks) {
        task.addresses = [address(n)].into();
    }
    let (all, internal) = (sees(&[1], true), sees(&[1], false));
    let clients = [(CLIENT, all), (IpAddr::from([10, 100, 0, 3]), internal)];
    let mut update = names(&[(1, "back", &[vote])], &clients);
    update.revision = 0x1_0000_0007;
    taken(update)
}

fn question(name: &str, kind: RecordType, edns: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    // the other ways to make a name lose the case
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(size) = edns {
        message
            .set_edns(Edns::new())
            .edns
            .as_mut()
            .unwrap()
            .set_max_payload(size);
    }
    message
}

fn reply_to(snapshot: &Names, client: IpAddr, packet: &[u8], by: Transport) -> Option<Vec<u8>> {
    match respond(snapshot, client, packet, by) {
        Response::Reply(_, reply) => Some(reply),
        Response::Silence => None,
        Response::Forward(..) => panic!("forwarded"),
    }
}

fn ask(snapshot: &Names, message: &Message) -> Message {
    let packet = message.to_vec().unwrap();
    let reply = reply_to(snapshot, CLIENT, &packet, Transport::Udp).unwrap();
    Message::from_vec(&reply).unwrap()
}

#[test]
fn answers_say_what_they_must() {
    let message = question("TaskS.vote.", RecordType::A, None);
    let reply = ask(&snapshot(2, false), &message);
    assert_eq!(reply.id, message.id);
    assert_eq!(reply.message_type, MessageType::Response);
    assert_eq!(reply.response_code, ResponseCode::NoError);
    assert!(reply.authoritative && reply.recursion_desired && reply.recursion_available);
    assert!(!reply.truncation && reply.edns.is_none());
    assert_eq!(reply.queries[0].name().to_string(), "TaskS.vote.");
    assert_eq!(reply.answers.len(), 2);
    for record in &reply.answers {
        assert_eq!(
            record.name.to_string(),
            "TaskS.vote.",
            "the case as it was asked"
        );
        assert_eq!(record.ttl, 3);
    }

    let pointer = ask(
        &snapshot(2, false),
        &question("0.0.100.10.in-addr.arpa.", RecordType::PTR, None),
    );
    let Some(RData::PTR(name)) = pointer.answers.first().map(|record| &record.data) else {
        panic!("{pointer}");
    };
    assert_eq!(name.0.to_string(), "vote.1.back.");
}

#[test]
fn no_is_said_with_a_soa_above_the_name() {
    let message = question("tasks.vote.", RecordType::AAAA, None);
    let reply = ask(&snapshot(2, false), &message);
    assert_eq!(reply.response_code, ResponseCode::NoError);
    assert!(reply.answers.is_empty());
    let soa = &reply.authorities[0];
    assert!(soa.name.zone_of(message.queries[0].name()));
    let RData::SOA(data) = &soa.data else {
        panic!("{soa}")
    };
    assert_eq!((data.serial, data.minimum, soa.ttl), (7, 3, 3));

    // one that may not ask the outside
    let packet = question("example.com.", RecordType::A, None)
        .to_vec()
        .unwrap();
    let internal = IpAddr::from([10, 100, 0, 3]);
    let reply = reply_to(&snapshot(2, false), internal, &packet, Transport::Udp).unwrap();
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(reply.response_code, ResponseCode::NXDomain);
    assert!(!reply.recursion_available);
    assert_eq!(reply.authorities.len(), 1);
}

#[test]
fn strangers_are_refused_whatever_they_ask() {
    for name in ["tasks.vote.", "example.com.", "1.0.100.10.in-addr.arpa."] {
        let packet = question(name, RecordType::A, None).to_vec().unwrap();
        let stranger = IpAddr::from([198, 51, 100, 1]);
        let reply = reply_to(&snapshot(2, false), stranger, &packet, Transport::Udp).unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(reply.response_code, ResponseCode::Refused);
        assert!(reply.answers.is_empty() && reply.authorities.is_empty());
    }
}

#[test]
fn clients_by_an_ipv6_socket_are_the_same() {
    let packet = question("tasks.vote.", RecordType::A, None)
        .to_vec()
        .unwrap();
    let mapped = "::ffff:10.100.0.2".parse().unwrap();
    let reply = reply_to(&snapshot(2, false), mapped, &packet, Transport::Udp).unwrap();
    assert_eq!(Message::from_vec(&reply).unwrap().answers.len(), 2);
}

#[test]
fn sets_are_shuffled() {
    let snapshot = snapshot(5, false);
    let message = question("tasks.vote.", RecordType::A, None);
    let firsts: std::collections::HashSet<_> = (0..200)
        .map(|_| ask(&snapshot, &message).answers[0].data.clone())
        .collect();
    // misses one of five with a chance of 1 in 10^18
    assert_eq!(firsts.len(), 5);
}

#[test]
fn edns_is_answered_with_edns() {
    let mut message = question("tasks.vote.", RecordType::A, Some(1232));
    message.edns.as_mut().unwrap().set_dnssec_ok(true);
    let edns = ask(&snapshot(2, false), &message).edns.unwrap();
    assert_eq!(edns.max_payload(), DATAGRAM);
    assert!(edns.flags().dnssec_ok);

    message.edns.as_mut().unwrap().set_version(1);
    let reply = ask(&snapshot(2, false), &message);
    // 16 on the wire, which is BADSIG as well
    assert_eq!(
        u16::from(reply.response_code),
        u16::from(ResponseCode::BADVERS)
    );
    assert_eq!(reply.edns.unwrap().version(), 0);
}

#[test]
fn what_is_no_question_is_told_so() {
    let snapshot = snapshot(2, false);
    let good = question("tasks.vote.", RecordType::A, None);

    let mut twice = good.clone();
    twice.add_query(good.queries[0].clone());
    let mut none = good.clone();
    none.queries.clear();
    for message in [twice, none] {
        assert_eq!(
            ask(&snapshot, &message).response_code,
            ResponseCode::FormErr
        );
    }
    for op_code in [OpCode::Update, OpCode::Notify, OpCode::Unknown(9)] {
        let mut message = good.clone();
        message.metadata.op_code = op_code;
        let reply = ask(&snapshot, &message);
        assert_eq!(
            (reply.response_code, reply.op_code),
            (ResponseCode::NotImp, op_code)
        );
    }
    let mut answer = good.clone();
    answer.metadata.message_type = MessageType::Response;
    let packet = answer.to_vec().unwrap();
    assert_eq!(reply_to(&snapshot, CLIENT, &packet, Transport::Udp), None);
    let packet = good.to_vec().unwrap();
    assert_eq!(
        reply_to(&snapshot, CLIENT, &packet[..11], Transport::Udp),
        None
    );
    let cut = reply_to(&snapshot, CLIENT, &packet[..14], Transport::Udp).unwrap();
    let cut = Message::from_vec(&cut).unwrap();
    assert_eq!(
        (cut.id, cut.response_code),
        (good.id, ResponseCode::FormErr)
    );
}

proptest! {
    #[test]
    fn as_many_as_fit_and_not_one_less(
        tasks in 1u16..5000,
        v6: bool,
        edns in prop::option::of(0u16..),
        tcp: bool,
    ) {
        let kind = if v6 { RecordType::AAAA } else { RecordType::A };
        let packet = question("tasks.vote.", kind, edns).to_vec().unwrap();
        let by = if tcp { Transport::Tcp } else { Transport::Udp };
        let bytes = reply_to(&snapshot(tasks, v6), CLIENT, &packet, by).unwrap();
        let reply = Message::from_vec(&bytes).unwrap();
        let limit = match (tcp, edns) {
            (true, _) => usize::from(u16::MAX),
            (false, None) => 512,
            (false, Some(size)) => usize::from(size.clamp(512, 4096)),
        };
        prop_assert!(bytes.len() <= limit);
        prop_assert_eq!(reply.edns.is_some(), edns.is_some());
        let complete = reply.answers.len() == usize::from(tasks);
        prop_assert_eq!(reply.truncation, !complete);
        let opt = if edns.is_some() { 0 } else { 11 };
        let one_more = bytes.len() + opt + if v6 { 28 } else { 16 };
        prop_assert!(complete || one_more > limit);
        let different: std::collections::HashSet<_> =
            reply.answers.iter().map(|record| &record.data).collect();
        prop_assert_eq!(different.len(), reply.answers.len());
    }

    #[test]
    fn any_bytes_are_survived(packet in prop::collection::vec(any::<u8>(), 0..600)) {
        survives(&packet)?;
    }

    #[test]
    fn damaged_questions_are_survived(
        edns in prop::option::of(0u16..),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end in any::<prop::sample::Index>(),
    ) {
        let mut message = question("tasks.vote.back.", RecordType::A, edns);
        message.add_additional(hickory_proto::rr::Record::from_rdata(
            Name::from_ascii("tasks.vote.").unwrap(),
            1,
            RData::A(A::new(1, 2, 3, 4)),
        ));
        let mut packet = message.to_vec().unwrap();
        for (at, value) in damage {
            let at = at.index(packet.len());
            packet[at] = value;
        }
        survives(&packet)?;
        survives(&packet[..end.index(packet.len())])?;
    }
}

/// Any answer to any bytes is one that can be read, and is for them.
fn survives(packet: &[u8]) -> Result<(), TestCaseError> {
    let snapshot = snapshot(3, false);
    match respond(&snapshot, CLIENT, packet, Transport::Udp) {
        Response::Silence | Response::Forward(..) => {}
        Response::Reply(_, reply) => {
            prop_assert_eq!(&reply[..2], &packet[..2]);
            prop_assert!(reply.len() <= 4096);
            let reply =
                Message::from_vec(&reply).map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(reply.message_type, MessageType::Response);
        }
    }
    Ok(())
}

#[test]
fn ports_are_told_with_the_addresses_of_where_they_are() {
    let message = question("_http._tcp.vote.", RecordType::SRV, Some(4096));
    let reply = ask(&snapshot(3, false), &message);
    let mut targets: Vec<_> = reply
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    targets.sort();
    let want = [1, 2, 3].map(|slot| format!("0 1 80 vote.{slot}.back."));
    assert_eq!(targets, want);
    let mut glue: Vec<_> = reply
        .additionals
        .iter()
        .map(|r| format!("{} {}", r.name, r.data))
        .collect();
    glue.sort();
    let want = [1, 2, 3].map(|n| format!("vote.{n}.back. 10.100.0.{}", n - 1));
    assert_eq!(glue, want);
    // all answers come first, and what is left out besides them is no truncation
    for tasks in [10, 12, 14, 16, 18, 20] {
        let packet = question("_http._tcp.vote.", RecordType::SRV, None)
            .to_vec()
            .unwrap();
        let bytes = reply_to(&snapshot(tasks, false), CLIENT, &packet, Transport::Udp).unwrap();
        assert!(bytes.len() <= 512, "{}", bytes.len());
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!(reply.truncation, reply.answers.len() < usize::from(tasks));
    }
}

#[test]
fn one_address_an_answer_is_any_of_them() {
    let mut update = names(&[], &[(CLIENT, sees(&[1], true))]);
    let one = model::names::ServiceNames {
        answers: 1,
        ttl: Some(0),
        ..service(
            "rr",
            &[],
            &[&["10.100.0.5"], &["10.100.0.6"], &["10.100.0.7"]],
        )
    };
    update
        .changes
        .extend(names(&[(1, "back", &[one])], &[]).changes);
    let names = taken(update);
    let message = question("rr.", RecordType::A, None);
    let mut seen = std::collections::HashMap::new();
    for _ in 0..600 {
        let reply = ask(&names, &message);
        assert_eq!((reply.answers.len(), reply.answers[0].ttl), (1, 0));
        *seen.entry(reply.answers[0].data.clone()).or_insert(0) += 1;
    }
    // 200 each; below 130 is six standard deviations away
    assert!(
        seen.len() == 3 && seen.values().all(|count| *count > 130),
        "{seen:?}"
    );
}
