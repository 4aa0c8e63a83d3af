//! From a packet to its answer, or to the wish to have others asked: no I/O.

use std::net::IpAddr;

use hickory_proto::{
    ProtoError,
    op::ResponseCode,
    rr::{
        Name, RData,
        rdata::{PTR, SOA, SRV},
    },
};
use rand::seq::SliceRandom as _;

use crate::{
    lookup::{Answer, Target, client, lookup},
    names::Names,
    wire::{Reply, Request, Transport, sendable},
};

/// What becomes of a packet.
pub(crate) enum Response {
    /// Nothing: it was no question.
    Silence,
    /// This is sent back.
    Reply(Said, Vec<u8>),
    /// Other servers know, if anybody: these, or the host's where there are none.
    Forward(Box<Request>, Box<[IpAddr]>),
}

/// What a reply says, to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Something of ours.
    Answer,
    /// That there is no such name, or nothing of that kind.
    No,
    /// That we do not talk to this client, or not about that.
    Refusal,
}

pub(crate) fn respond(
    names: &Names,
    from: IpAddr,
    packet: &[u8],
    transport: Transport,
) -> Response {
    // an IPv6 socket shows IPv4 clients as ::ffff:a.b.c.d (RFC 4291 §2.5.5.2)
    let from = from.to_canonical();
    let request = match Request::parse(packet) {
        Ok(request) => request,
        Err(None) => return Response::Silence,
        Err(Some(instead)) => return Response::Reply(Said::Refusal, instead),
    };
    let asks = client(names, from);
    let ours = Reply {
        authoritative: true,
        recursion: asks.is_none_or(|client| client.forward),
        ttl: names.mesh.ttl,
        ..Reply::default()
    };
    let (said, reply) = match lookup(names, from, request.query()) {
        Answer::Forward => {
            let servers = asks.map(|client| client.servers.clone());
            return Response::Forward(Box::new(request), servers.unwrap_or_default());
        }
        Answer::Refused => (Said::Refusal, fail(ResponseCode::Refused)),
        Answer::Addresses {
            mut addresses,
            ttl,
            most,
        } => {
            // clients that take the first one shall not all take the same
            if addresses.len() > 1 {
                addresses.shuffle(&mut rand::rng());
                addresses.truncate(most);
            }
            let reply = request.addresses(packet, &addresses, ttl, ours.recursion, transport);
            let reply = sendable(reply);
            return reply.map_or(Response::Silence, |reply| {
                Response::Reply(Said::Answer, reply)
            });
        }
        Answer::Services { mut targets, ttl } => {
            targets.shuffle(&mut rand::rng());
            (Said::Answer, services(targets, Reply { ttl, ..ours }))
        }
        Answer::Pointer { name, ttl } => match absolute(&name) {
            Ok(name) => {
                let answers = vec![RData::PTR(PTR(name))];
                (
                    Said::Answer,
                    Reply {
                        answers,
                        ttl,
                        ..ours
                    },
                )
            }
            Err(error) => {
                tracing::warn!(name, %error, "a name of ours is none");
                (Said::Refusal, fail(ResponseCode::ServFail))
            }
        },
        Answer::NoData => {
            let soa = Some(soa(names));
            (Said::No, Reply { soa, ..ours })
        }
        Answer::NxDomain => {
            let (code, soa) = (ResponseCode::NXDomain, Some(soa(names)));
            (Said::No, Reply { code, soa, ..ours })
        }
    };
    let reply = request.reply(reply, transport);
    reply.map_or(Response::Silence, |reply| Response::Reply(said, reply))
}

fn fail(code: ResponseCode) -> Reply {
    Reply {
        code,
        ..Reply::default()
    }
}

/// SRV records, all of the same rank, and the addresses of what they name.
fn services(targets: Vec<Target>, mut reply: Reply) -> Reply {
    for target in targets {
        let name = match absolute(&target.name) {
            Ok(name) => name,
            Err(error) => {
                tracing::warn!(name = target.name, %error, "a name of ours is none");
                continue;
            }
        };
        let addresses = target.addresses.into_iter();
        reply
            .additional
            .extend(addresses.map(|address| (name.clone(), address)));
        // clients draw one by weight (RFC 2782): all alike
        reply
            .answers
            .push(RData::SRV(SRV::new(0, 1, target.port, name)));
    }
    reply
}

fn absolute(name: &str) -> Result<Name, ProtoError> {
    Name::from_labels(name.split('.').map(str::as_bytes))
}

/// Says how long "no" may be remembered (RFC 2308 §5); of its other fields only
/// the serial means anything, as nobody transfers our zone.
fn soa(names: &Names) -> SOA {
    // a serial is a circle of 32 bits anyway (RFC 1982)
    let serial = names.revision as u32;
    let timer = i32::try_from(names.mesh.ttl).unwrap_or(i32::MAX);
    SOA::new(
        Name::root(),
        Name::root(),
        serial,
        timer,
        timer,
        timer,
        names.mesh.ttl,
    )
}

#[cfg(test)]
mod tests;
