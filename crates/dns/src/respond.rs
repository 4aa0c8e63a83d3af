//! From a packet to its answer, or to the wish to have others asked: no I/O.

use std::net::IpAddr;

use hickory_proto::{
    ProtoError,
    op::ResponseCode,
    rr::{
        Name, RData,
        rdata::{PTR, SOA},
    },
};
use model::names::Snapshot;
use rand::seq::SliceRandom as _;

use crate::{
    lookup::{Answer, lookup},
    wire::{Reply, Request, Transport},
};

/// What becomes of a packet.
pub(crate) enum Response {
    /// Nothing: it was no question.
    Silence,
    /// This is sent back.
    Reply(Vec<u8>),
    /// Other servers know, if anybody.
    Forward(Box<Request>),
}

pub(crate) fn respond(
    snapshot: &Snapshot,
    client: IpAddr,
    packet: &[u8],
    transport: Transport,
) -> Response {
    // an IPv6 socket shows IPv4 clients as ::ffff:a.b.c.d (RFC 4291 §2.5.5.2)
    let client = client.to_canonical();
    let request = match Request::parse(packet) {
        Ok(request) => request,
        Err(instead) => return instead.map_or(Response::Silence, Response::Reply),
    };
    let recursion = snapshot
        .clients
        .get(&client)
        .is_none_or(|client| client.forward);
    let ours = Reply {
        authoritative: true,
        recursion,
        ttl: snapshot.ttl,
        ..Reply::default()
    };
    let reply = match lookup(snapshot, client, request.query()) {
        Answer::Forward => return Response::Forward(Box::new(request)),
        Answer::Refused => Reply {
            code: ResponseCode::Refused,
            ..Reply::default()
        },
        Answer::Addresses(mut addresses) => {
            // clients that take the first one shall not all take the same
            addresses.shuffle(&mut rand::rng());
            Reply {
                answers: addresses.into_iter().map(RData::from).collect(),
                ..ours
            }
        }
        Answer::Pointer(name) => match absolute(name) {
            Ok(name) => Reply {
                answers: vec![RData::PTR(PTR(name))],
                ..ours
            },
            Err(error) => {
                tracing::warn!(name, %error, "a name in the snapshot is none");
                Reply {
                    code: ResponseCode::ServFail,
                    ..Reply::default()
                }
            }
        },
        Answer::NoData => Reply {
            soa: Some(soa(snapshot)),
            ..ours
        },
        Answer::NxDomain => Reply {
            code: ResponseCode::NXDomain,
            soa: Some(soa(snapshot)),
            ..ours
        },
    };
    request
        .reply(reply, transport)
        .map_or(Response::Silence, Response::Reply)
}

fn absolute(name: &str) -> Result<Name, ProtoError> {
    Name::from_labels(name.split('.').map(str::as_bytes))
}

/// Says how long "no" may be remembered (RFC 2308 §5); of its other fields only
/// the serial means anything, as nobody transfers our zone.
fn soa(snapshot: &Snapshot) -> SOA {
    // a serial is a circle of 32 bits anyway (RFC 1982)
    let serial = snapshot.revision as u32;
    let timer = i32::try_from(snapshot.ttl).unwrap_or(i32::MAX);
    SOA::new(
        Name::root(),
        Name::root(),
        serial,
        timer,
        timer,
        timer,
        snapshot.ttl,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hickory_proto::{
        op::{Edns, Message, MessageType, OpCode, Query},
        rr::{RecordType, rdata::A},
    };
    use model::names::{Client, Zone};
    use proptest::prelude::*;

    use super::*;
    use crate::wire::DATAGRAM;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 100, 0, 2));

    fn snapshot(tasks: u16, v6: bool) -> Snapshot {
        let address = |n: u16| match v6 {
            true => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]),
            false => IpAddr::from([10, 100, n.to_be_bytes()[0], n.to_be_bytes()[1]]),
        };
        let zone = Zone {
            name: "back".to_owned(),
            names: BTreeMap::from([("tasks.vote".to_owned(), (0..tasks).map(address).collect())]),
            reverse: BTreeMap::from([(address(1), "vote.1.back".to_owned())]),
        };
        let client = |forward| Client {
            networks: vec!["1".to_owned()],
            forward,
        };
        Snapshot {
            revision: 0x1_0000_0007,
            ttl: 3,
            networks: BTreeMap::from([("1".to_owned(), zone)]),
            clients: BTreeMap::from([
                (CLIENT, client(true)),
                (IpAddr::from([10, 100, 0, 3]), client(false)),
            ]),
            upstreams: Vec::new(),
        }
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

    fn reply_to(
        snapshot: &Snapshot,
        client: IpAddr,
        packet: &[u8],
        by: Transport,
    ) -> Option<Vec<u8>> {
        match respond(snapshot, client, packet, by) {
            Response::Reply(reply) => Some(reply),
            Response::Silence => None,
            Response::Forward(_) => panic!("forwarded"),
        }
    }

    fn ask(snapshot: &Snapshot, message: &Message) -> Message {
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
            &question("1.0.100.10.in-addr.arpa.", RecordType::PTR, None),
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
            Response::Silence | Response::Forward(_) => {}
            Response::Reply(reply) => {
                prop_assert_eq!(&reply[..2], &packet[..2]);
                prop_assert!(reply.len() <= 4096);
                let reply =
                    Message::from_vec(&reply).map_err(|e| TestCaseError::fail(e.to_string()))?;
                prop_assert_eq!(reply.message_type, MessageType::Response);
            }
        }
        Ok(())
    }
}
