//! Netlink attributes (`struct nlattr`): a length and a number in the host's byte order,
//! a value, and what fills it up to four octets.

use netlink_packet_core::{NLA_F_NESTED, NlaBuffer, NlasIterator};

/// Appends an attribute.
pub(crate) fn put(body: &mut Vec<u8>, number: u16, value: &[u8]) {
    body.extend(((value.len() + 4) as u16).to_ne_bytes());
    body.extend(number.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Appends a text, with the zero that C wants at its end.
pub(crate) fn put_text(body: &mut Vec<u8>, number: u16, text: &str) {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    put(body, number, &value);
}

/// Appends an attribute of attributes.
pub(crate) fn put_nested(body: &mut Vec<u8>, number: u16, inside: impl FnOnce(&mut Vec<u8>)) {
    let mut nested = Vec::new();
    inside(&mut nested);
    put(body, number | NLA_F_NESTED, &nested);
}

/// Number (without flags) and value of each attribute; stops at nonsense.
pub(crate) fn each(body: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(body)
        .map_while(Result::ok)
        .map(|nla: NlaBuffer<&[u8]>| {
            let length = usize::from(nla.length());
            let value = nla.into_inner().get(4..length);
            (nla.kind(), value.unwrap_or_default())
        })
}

/// The value of the first attribute with this number.
pub(crate) fn find(body: &[u8], number: u16) -> Option<&[u8]> {
    each(body).find(|(n, _)| *n == number).map(|(_, v)| v)
}

/// A text without the zero at its end.
pub(crate) fn text(value: &[u8]) -> String {
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    String::from_utf8_lossy(value).into_owned()
}
