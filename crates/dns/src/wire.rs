//! The wire format (RFC 1035 §4.1, EDNS: RFC 6891): one request, and replies to it.

use std::net::IpAddr;

use hickory_proto::{
    ProtoError,
    op::{
        Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode,
        emit_message_parts,
    },
    rr::{DNSClass, Name, RData, Record, rdata::SOA},
    serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder},
};

use crate::addresses::question;

/// The largest datagram we take and send. Our clients are on this host, where
/// fragments do not get lost (the reason for the usual 1232, RFC 9715).
pub(crate) const DATAGRAM: u16 = 4096;
/// What a client without EDNS takes (RFC 1035 §4.2.1).
const PLAIN_DATAGRAM: u16 = 512;
/// A compression pointer (RFC 1035 §4.1.4) to the question's name, which always
/// follows the header of 12 octets.
pub(crate) const QUESTION_NAME: u16 = 0xC000 | 12;

/// How a question came; it bounds the answer's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// How a question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Manner {
    recursion: bool,
    unchecked: bool,
    authentic: bool,
    /// Size and the DO bit.
    edns: Option<(u16, bool)>,
}

/// A question that can be answered.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    metadata: Metadata,
    query: Query,
    edns: Option<Edns>,
}

/// What a reply says, beside the question's own things.
#[derive(Default)]
pub(crate) struct Reply {
    pub(crate) code: ResponseCode,
    /// We are the ones to know (AA).
    pub(crate) authoritative: bool,
    /// The client may ask for other names, too (RA).
    pub(crate) recursion: bool,
    pub(crate) ttl: u32,
    /// Data of the question's name.
    pub(crate) answers: Vec<RData>,
    /// Goes with answers that say "no" (RFC 2308 §3).
    pub(crate) soa: Option<SOA>,
    /// What saves the client its next question; left out where it does not fit.
    pub(crate) additional: Vec<(Name, IpAddr)>,
}

impl Request {
    /// Reads a packet. If it cannot be answered properly, the error is what to
    /// send instead, if anything.
    pub(crate) fn parse(packet: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        // a bug in the decoder shall cost this packet, not the responder
        let decoded = std::panic::catch_unwind(|| Message::from_vec(packet));
        let decoded = decoded.ok().and_then(Result::ok);
        let metadata = match &decoded {
            Some(message) => message.metadata,
            None => {
                let header = Header::read(&mut BinDecoder::new(packet));
                header.map_err(|_| None)?.metadata
            }
        };
        // two servers that answer each other's answers would not stop
        if metadata.message_type == MessageType::Response {
            return Err(None);
        }
        if metadata.op_code != OpCode::Query {
            return Err(bare_reply(&metadata, ResponseCode::NotImp));
        }
        let Some(mut message) = decoded else {
            return Err(bare_reply(&metadata, ResponseCode::FormErr));
        };
        // exactly one question: RFC 9619
        let one = question(packet).and_then(|_| message.queries.pop());
        let (Some(query), true) = (one, message.queries.is_empty()) else {
            return Err(bare_reply(&metadata, ResponseCode::FormErr));
        };
        let request = Self {
            metadata,
            query,
            edns: message.edns,
        };
        if request
            .edns
            .as_ref()
            .is_some_and(|edns| edns.version() != 0)
        {
            return Err(request.fail(ResponseCode::BADVERS));
        }
        Ok(request)
    }

    pub(crate) fn query(&self) -> &Query {
        &self.query
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Whether signatures are wanted; `None` without EDNS.
    pub(crate) fn dnssec(&self) -> Option<bool> {
        Some(self.edns.as_ref()?.flags().dnssec_ok)
    }

    pub(crate) fn id(&self) -> u16 {
        self.metadata.id
    }

    /// What of the question beside its name, type and class may change what another
    /// server answers; `None` where that is not known.
    pub(crate) fn manner(&self) -> Option<Manner> {
        let edns = match &self.edns {
            Some(edns) if !edns.options().options.is_empty() => return None,
            edns => edns.as_ref(),
        };
        Some(Manner {
            recursion: self.metadata.recursion_desired,
            unchecked: self.metadata.checking_disabled,
            authentic: self.metadata.authentic_data,
            edns: edns.map(|edns| (edns.max_payload(), edns.flags().dnssec_ok)),
        })
    }

    /// How large an answer may be.
    pub(crate) fn limit(&self, transport: Transport) -> u16 {
        match (transport, &self.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => PLAIN_DATAGRAM,
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(PLAIN_DATAGRAM, DATAGRAM),
        }
    }

    /// An answer with nothing but a code.
    pub(crate) fn fail(&self, code: ResponseCode) -> Option<Vec<u8>> {
        self.reply(
            Reply {
                code,
                ..Reply::default()
            },
            Transport::Udp,
        )
    }

    /// Encodes an answer. If it is too large, as many records as fit go with
    /// the truncation flag.
    pub(crate) fn reply(&self, reply: Reply, transport: Transport) -> Option<Vec<u8>> {
        let edns = self.edns.as_ref().map(|theirs| {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM);
            // must be repeated: RFC 3225 §3
            edns.set_dnssec_ok(theirs.flags().dnssec_ok);
            edns
        });
        let Reply {
            code,
            authoritative,
            recursion,
            ttl,
            answers,
            soa,
            additional,
        } = reply;
        let mut answers: Vec<_> = answers
            .into_iter()
            .map(|data| OwnRecord { ttl, data })
            .collect();
        // header, question, OPT record
        let fixed = 12 + (self.query.name().len() + 1 + 4) + 11;
        let room = usize::from(self.limit(transport)).saturating_sub(fixed);
        let (fitting, mut room) = fitting(room, answers.iter().map(OwnRecord::size));

        let mut metadata = Metadata::response_from_request(&self.metadata);
        metadata.response_code = code;
        metadata.authoritative = authoritative;
        metadata.recursion_available = recursion;
        metadata.truncation = fitting < answers.len();
        answers.truncate(fitting);

        // the root, above every name of ours: to a client they are one zone, and
        // the owner must enclose the name that was asked for (RFC 2308 §2)
        let soa = soa.map(|soa| Record::from_rdata(Name::root(), ttl, RData::SOA(soa)));
        let additional: Vec<_> = additional
            .into_iter()
            .take_while(|_| fitting == answers.len() && !metadata.truncation)
            .map(|(name, address)| Record::from_rdata(name, ttl, RData::from(address)))
            .take_while(|record| {
                let left = room.checked_sub(record.name.len() + 1 + 10 + 16);
                room = left.unwrap_or(0);
                left.is_some()
            })
            .collect();
        let mut bytes = Vec::with_capacity(PLAIN_DATAGRAM.into());
        let encoded = emit_message_parts(
            &metadata,
            &mut std::iter::once(&self.query),
            &mut answers.iter(),
            &mut soa.iter(),
            &mut additional.iter(),
            edns.as_ref(),
            None,
            &mut BinEncoder::new(&mut bytes),
        );
        sendable(encoded.map(|_| bytes))
    }

    /// Whether a packet is another server's answer to this question, asked
    /// there with `id` (RFC 5452 §9.1); and what it says.
    pub(crate) fn answered_by(&self, id: u16, packet: &[u8]) -> Option<Metadata> {
        let mut decoder = BinDecoder::new(packet);
        let header = Header::read(&mut decoder).ok()?;
        let same_question = match header.counts.queries {
            1 => Query::read(&mut decoder).ok()? == self.query,
            // some leave it out when they do not understand the message
            0 => header.response_code != ResponseCode::NoError,
            _ => false,
        };
        let ours = header.id == id && header.message_type == MessageType::Response;
        (ours && same_question).then_some(header.metadata)
    }
}

/// How many of records of these sizes fit, and how much room they leave.
pub(crate) fn fitting(mut room: usize, sizes: impl Iterator<Item = usize>) -> (usize, usize) {
    let fits = |size: &usize| {
        let left = room.checked_sub(*size);
        room = left.unwrap_or(0);
        left.is_some()
    };
    let fitting = sizes.take_while(fits).count();
    (fitting, room)
}

/// A record whose owner is the question's name.
struct OwnRecord {
    ttl: u32,
    data: RData,
}

impl OwnRecord {
    /// Octets on the wire, at most.
    fn size(&self) -> usize {
        let data = match &self.data {
            RData::SRV(srv) => 6 + srv.target.len() + 1,
            // a name and little else
            _ => 255 + 6,
        };
        12 + data
    }
}

impl BinEncodable for OwnRecord {
    fn emit(&self, encoder: &mut BinEncoder<'_>) -> Result<(), ProtoError> {
        encoder.emit_u16(QUESTION_NAME)?;
        self.data.record_type().emit(encoder)?;
        DNSClass::IN.emit(encoder)?;
        encoder.emit_u32(self.ttl)?;
        let length = encoder.place::<u16>()?;
        self.data.emit(encoder)?;
        let octets = encoder.len_since_place(&length);
        let octets = u16::try_from(octets).map_err(|_| ProtoError::from("record too long"))?;
        length.replace(encoder, octets)
    }
}

/// An answer to what could not be read: the header only.
fn bare_reply(header: &Metadata, code: ResponseCode) -> Option<Vec<u8>> {
    let mut message = Message::response(header.id, header.op_code);
    message.metadata.recursion_desired = header.recursion_desired;
    message.metadata.response_code = code;
    sendable(message.to_vec())
}

/// Nothing is sent rather than something broken.
pub(crate) fn sendable(encoded: Result<Vec<u8>, ProtoError>) -> Option<Vec<u8>> {
    encoded
        .inspect_err(|error| tracing::warn!(%error, "cannot encode an answer"))
        .ok()
}
