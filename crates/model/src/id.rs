use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::text::serde_by_text;

/// Length of an identity in text form, as in SwarmKit.
const LEN: usize = 25;

/// The characters themselves, all of `[0-9a-z]`: maps by identity hold their keys in
/// place, and compare and copy them without following a pointer each.
type Text = [u8; LEN];

/// 128 random bits as 25 characters of `[0-9a-z]`.
fn encode(random: [u8; 16]) -> Text {
    let mut n = u128::from_be_bytes(random);
    let mut text = [b'0'; LEN];
    for digit in text.iter_mut().rev() {
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(n % 36) as usize];
        n /= 36;
    }
    text
}

fn decode(text: &str) -> Option<Text> {
    let valid = |b: &u8| b.is_ascii_digit() || b.is_ascii_lowercase();
    let text = Text::try_from(text.as_bytes()).ok()?;
    text.iter().all(valid).then_some(text)
}

/// The order of the characters. Maps by identity do little else: nearly always the first
/// eight decide, which are compared as one number rather than by a call.
fn compare(one: &Text, other: &Text) -> Ordering {
    let begin = |&[a, b, c, d, e, f, g, h, ..]: &Text| u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    begin(one).cmp(&begin(other)).then_with(|| one.cmp(other))
}

/// The text is not an identity: 25 characters of `[0-9a-z]`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an id: 25 characters of 0-9 and a-z")]
pub struct InvalidId(String);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Text);

        impl $name {
            /// The one before all others.
            pub const FIRST: Self = Self([b'0'; LEN]);

            /// A new identity out of 128 random bits.
            pub fn from_random(random: [u8; 16]) -> Self {
                Self(encode(random))
            }

            /// The 25 characters.
            pub fn as_str(&self) -> &str {
                // characters of ASCII always are
                str::from_utf8(&self.0).unwrap_or_default()
            }

            /// The first 12 characters, as `docker` shows ids.
            pub fn short(&self) -> &str {
                &self.as_str()[..12]
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                compare(&self.0, &other.0)
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                decode(text).map(Self).ok_or_else(|| InvalidId(text.to_owned()))
            }
        }

        serde_by_text!($name);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.as_str())
            }
        }
    };
}

id!(
    /// Identity of a service; stays through renames and updates.
    ServiceId
);
id!(
    /// Identity of one task: one run of one replica, never reused.
    TaskId
);
id!(
    /// Identity of a network.
    NetworkId
);
id!(
    /// Identity of a config or a secret.
    BlobId
);
id!(
    /// Identity of a node, made once per data directory.
    NodeId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_form() {
        let id = ServiceId::from_random([0xff; 16]);
        assert_eq!(id.as_str(), "f5lxx1zz5pnorynqglhzmsp33");
        assert_eq!(id.as_str().parse::<ServiceId>().unwrap(), id);
        for wrong in [
            "",
            "short",
            "F5LXX1ZZ5PNORYNQGLHZMSP33",
            "f5lxx1zz5pnorynqglhzmsp3é",
        ] {
            assert!(wrong.parse::<ServiceId>().is_err(), "{wrong}");
        }
    }
}
