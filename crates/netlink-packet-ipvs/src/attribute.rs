// SPDX-License-Identifier: MIT OR Apache-2.0

//! What all attribute enums share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{DecodeError, Emitable, Nla, NlaBuffer, NlasIterator, Parseable};

/// `union nf_inet_addr`: 16 octets, of which IPv4 uses the first four.
pub(crate) type RawAddress = [u8; 16];

pub(crate) fn raw_address(address: IpAddr) -> RawAddress {
    let mut raw = [0; 16];
    match address {
        IpAddr::V4(v4) => raw[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => raw = v6.octets(),
    }
    raw
}

pub(crate) fn address(raw: &RawAddress, v6: bool) -> IpAddr {
    if v6 {
        IpAddr::V6(Ipv6Addr::from(*raw))
    } else {
        IpAddr::V4(Ipv4Addr::new(raw[0], raw[1], raw[2], raw[3]))
    }
}

/// Exactly `N` octets; more are allowed where the kernel may append.
pub(crate) fn octets<const N: usize>(value: &[u8], what: &str) -> Result<[u8; N], DecodeError> {
    value
        .get(..N)
        .and_then(|value| value.try_into().ok())
        .ok_or_else(|| DecodeError::from(format!("{what} has {} octets, not {N}", value.len())))
}

/// Octets of a string that are sent, without its NUL. The kernel's longest
/// names have 15: what is cut here is refused there, and an attribute's length
/// cannot overflow.
pub(crate) fn text_len(text: &str) -> usize {
    text.len().min(255)
}

/// A string up to its NUL.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// All attributes in a buffer.
pub(crate) fn parse_all<'a, A>(buffer: &'a [u8]) -> Result<Vec<A>, DecodeError>
where
    A: Parseable<NlaBuffer<&'a [u8]>>,
{
    NlasIterator::new(buffer)
        .map(|nla| A::parse(&nla?))
        .collect()
}

/// Octets that nested attributes take.
pub(crate) fn nested_len<A: Nla>(attributes: &[A]) -> usize {
    attributes.buffer_len()
}

/// Writes nested attributes.
pub(crate) fn emit_nested<A: Nla>(attributes: &[A], buffer: &mut [u8]) {
    attributes.emit(buffer);
}

/// Defines an attribute enum: number, name and type of each, in one table, with
/// `Nla` and `Parseable`. Types: `u8 u16 u32 u64` in the host's order, `be16` a
/// port, `raw` an address of either family, `raw4` an IPv4 address, `text`,
/// `flags`, `[T]` for nested attributes of type `T`.
macro_rules! attributes {
    (
        $(#[$doc:meta])* $name:ident {
            $( $(#[$vdoc:meta])* $number:literal $variant:ident $kind:tt ),* $(,)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name {
            $( $(#[$vdoc])* $variant(attributes!(@type $kind)), )*
            /// One that this crate does not know.
            Other(::netlink_packet_core::DefaultNla),
        }

        impl ::netlink_packet_core::Nla for $name {
            fn value_len(&self) -> usize {
                match self {
                    $( Self::$variant(value) => attributes!(@len $kind value), )*
                    Self::Other(other) => other.value_len(),
                }
            }

            fn kind(&self) -> u16 {
                match self {
                    $( Self::$variant(_) => $number | attributes!(@flag $kind), )*
                    Self::Other(other) => other.kind(),
                }
            }

            fn emit_value(&self, buffer: &mut [u8]) {
                match self {
                    $( Self::$variant(value) => { attributes!(@emit $kind value, buffer) } )*
                    Self::Other(other) => other.emit_value(buffer),
                }
            }
        }

        impl<'a, T: AsRef<[u8]> + ?Sized>
            ::netlink_packet_core::Parseable<::netlink_packet_core::NlaBuffer<&'a T>> for $name
        {
            fn parse(
                buffer: &::netlink_packet_core::NlaBuffer<&'a T>,
            ) -> Result<Self, ::netlink_packet_core::DecodeError> {
                let value = buffer.value();
                Ok(match buffer.kind() {
                    $( $number => Self::$variant(
                        attributes!(@parse $kind value, concat!(stringify!($name), "::", stringify!($variant)))
                    ), )*
                    _ => Self::Other(::netlink_packet_core::DefaultNla::parse(buffer)?),
                })
            }
        }
    };
    (@type u8) => { u8 };
    (@type u16) => { u16 };
    (@type u32) => { u32 };
    (@type u64) => { u64 };
    (@type be16) => { u16 };
    (@type raw) => { [u8; 16] };
    (@type raw4) => { [u8; 4] };
    (@type text) => { String };
    (@type flags) => { $crate::Flags };
    (@type [$nested:ty]) => { Vec<$nested> };
    (@len u8 $v:ident) => {{ let _ = $v; 1 }};
    (@len u16 $v:ident) => {{ let _ = $v; 2 }};
    (@len u32 $v:ident) => {{ let _ = $v; 4 }};
    (@len u64 $v:ident) => {{ let _ = $v; 8 }};
    (@len be16 $v:ident) => {{ let _ = $v; 2 }};
    (@len raw $v:ident) => { $v.len() };
    (@len raw4 $v:ident) => { $v.len() };
    (@len flags $v:ident) => {{ let _ = $v; 8 }};
    (@len text $v:ident) => { $crate::attribute::text_len($v) + 1 };
    (@len [$nested:ty] $v:ident) => { $crate::attribute::nested_len($v) };
    (@flag [$nested:ty]) => { ::netlink_packet_core::NLA_F_NESTED };
    (@flag $other:ident) => { 0 };
    (@emit u8 $v:ident, $b:ident) => { $b[0] = *$v };
    (@emit be16 $v:ident, $b:ident) => { $b[..2].copy_from_slice(&$v.to_be_bytes()) };
    (@emit raw $v:ident, $b:ident) => { $b[..16].copy_from_slice($v) };
    (@emit raw4 $v:ident, $b:ident) => { $b[..4].copy_from_slice($v) };
    (@emit flags $v:ident, $b:ident) => {{
        $b[..4].copy_from_slice(&$v.flags.to_ne_bytes());
        $b[4..8].copy_from_slice(&$v.mask.to_ne_bytes())
    }};
    (@emit text $v:ident, $b:ident) => {{
        let len = $crate::attribute::text_len($v);
        $b[..len].copy_from_slice(&$v.as_bytes()[..len]);
        $b[len] = 0
    }};
    (@emit [$nested:ty] $v:ident, $b:ident) => { $crate::attribute::emit_nested($v, $b) };
    (@emit $int:ident $v:ident, $b:ident) => {{
        let octets = $v.to_ne_bytes();
        $b[..octets.len()].copy_from_slice(&octets)
    }};
    (@parse u8 $v:ident, $w:expr) => { $crate::attribute::octets::<1>($v, $w)?[0] };
    (@parse u16 $v:ident, $w:expr) => { u16::from_ne_bytes($crate::attribute::octets($v, $w)?) };
    (@parse u32 $v:ident, $w:expr) => { u32::from_ne_bytes($crate::attribute::octets($v, $w)?) };
    (@parse u64 $v:ident, $w:expr) => { u64::from_ne_bytes($crate::attribute::octets($v, $w)?) };
    (@parse be16 $v:ident, $w:expr) => { u16::from_be_bytes($crate::attribute::octets($v, $w)?) };
    (@parse raw $v:ident, $w:expr) => { $crate::attribute::octets::<16>($v, $w)? };
    (@parse raw4 $v:ident, $w:expr) => { $crate::attribute::octets::<4>($v, $w)? };
    (@parse text $v:ident, $w:expr) => { $crate::attribute::text($v) };
    (@parse flags $v:ident, $w:expr) => {{
        let octets: [u8; 8] = $crate::attribute::octets($v, $w)?;
        let [a, b, c, d, e, f, g, h] = octets;
        $crate::Flags {
            flags: u32::from_ne_bytes([a, b, c, d]),
            mask: u32::from_ne_bytes([e, f, g, h]),
        }
    }};
    (@parse [$nested:ty] $v:ident, $w:expr) => { $crate::attribute::parse_all::<$nested>($v)? };
}

pub(crate) use attributes;
