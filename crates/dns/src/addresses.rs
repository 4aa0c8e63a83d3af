//! Answers of nothing but addresses, which nearly all are: written straight behind the
//! question, as that came (RFC 1035 §4.1, RFC 3596 §2.2).

use std::net::IpAddr;

use hickory_proto::{
    ProtoError,
    op::{Header, HeaderCounts, Metadata},
    rr::RecordType,
    serialize::binary::{BinEncodable as _, BinEncoder},
};

use crate::wire::{DATAGRAM, QUESTION_NAME, Request, Transport, fitting};

/// Octets of a header.
const HEADER: usize = 12;
/// Octets of an OPT record without options (RFC 6891 §6.1.2).
const OPT: usize = 11;
/// `IN`
const INTERNET: u16 = 1;

/// The question as it stands in a packet, if its name is there in full.
pub(crate) fn question(packet: &[u8]) -> Option<&[u8]> {
    let mut at = HEADER;
    loop {
        match usize::from(*packet.get(at)?) {
            0 => return packet.get(HEADER..at + 1 + 4),
            // a pointer: there is nothing before a question that it could point to
            64.. => return None,
            length => at += 1 + length,
        }
    }
}

impl Request {
    /// The answer with these addresses, or with as many as fit and the truncation flag:
    /// musl before 1.2.4 does not ask again by TCP, but takes what it gets. `packet` is
    /// what this request was read from.
    ///
    /// # Errors
    /// The answer is longer than a message may be.
    pub(crate) fn addresses(
        &self,
        packet: &[u8],
        addresses: &[IpAddr],
        ttl: u32,
        recursion: bool,
        transport: Transport,
    ) -> Result<Vec<u8>, ProtoError> {
        let question = question(packet).ok_or("no question")?;
        let fixed = HEADER + question.len() + OPT;
        let room = usize::from(self.limit(transport)).saturating_sub(fixed);
        let sizes = addresses.iter().map(|address| 12 + octets(address));
        let (fitting, _) = fitting(room, sizes);

        let mut metadata = Metadata::response_from_request(self.metadata());
        metadata.authoritative = true;
        metadata.recursion_available = recursion;
        metadata.truncation = fitting < addresses.len();
        let counts = HeaderCounts {
            queries: 1,
            answers: u16::try_from(fitting).map_err(|_| "too many answers")?,
            authorities: 0,
            additionals: self.dnssec().is_some().into(),
        };
        let mut bytes = Vec::with_capacity(fixed + fitting * (12 + 16));
        Header { metadata, counts }.emit(&mut BinEncoder::new(&mut bytes))?;
        bytes.extend_from_slice(question);
        for address in addresses.iter().take(fitting) {
            put(&mut bytes, address, ttl);
        }
        if let Some(dnssec) = self.dnssec() {
            bytes.push(0);
            bytes.extend_from_slice(&u16::from(RecordType::OPT).to_be_bytes());
            bytes.extend_from_slice(&DATAGRAM.to_be_bytes());
            // code and version are 0; the DO bit must be repeated: RFC 3225 §3
            bytes.extend_from_slice(&[0, 0, if dnssec { 0x80 } else { 0 }, 0, 0, 0]);
        }
        Ok(bytes)
    }
}

fn octets(address: &IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => 4,
        IpAddr::V6(_) => 16,
    }
}

/// A record of the question's name.
fn put(bytes: &mut Vec<u8>, address: &IpAddr, ttl: u32) {
    let (kind, octets): (_, &[u8]) = match address {
        IpAddr::V4(four) => (RecordType::A, &four.octets()),
        IpAddr::V6(six) => (RecordType::AAAA, &six.octets()),
    };
    bytes.extend_from_slice(&QUESTION_NAME.to_be_bytes());
    bytes.extend_from_slice(&u16::from(kind).to_be_bytes());
    bytes.extend_from_slice(&INTERNET.to_be_bytes());
    bytes.extend_from_slice(&ttl.to_be_bytes());
    bytes.extend_from_slice(&(octets.len() as u16).to_be_bytes());
    bytes.extend_from_slice(octets);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_found_where_its_name_is_whole() {
        let mut packet = vec![0; HEADER];
        packet.extend(*b"\x04vote\x04back\x00\x00\x01\x00\x01rest");
        assert_eq!(
            question(&packet),
            Some(&b"\x04vote\x04back\x00\x00\x01\x00\x01"[..])
        );
        for length in 0..packet.len() - 4 {
            assert_eq!(question(&packet[..length]), None, "{length}");
        }
        let mut pointing = vec![0; HEADER];
        pointing.extend([0xc0, 0, 0, 1, 0, 1]);
        assert_eq!(question(&pointing), None);
    }
}
