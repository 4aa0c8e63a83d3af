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
