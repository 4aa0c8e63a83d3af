use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Length of an identity in text form, as in SwarmKit.
const LEN: usize = 25;

/// 128 random bits as 25 characters of `[0-9a-z]`.
fn encode(random: [u8; 16]) -> String {
    let mut n = u128::from_be_bytes(random);
    let mut text = [b'0'; LEN];
    for digit in text.iter_mut().rev() {
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(n % 36) as usize];
        n /= 36;
    }
    text.iter().map(|b| char::from(*b)).collect()
}

/// The text is not an identity: 25 characters of `[0-9a-z]`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an id: 25 characters of 0-9 and a-z")]
pub struct InvalidId(String);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new identity out of 128 random bits.
            pub fn from_random(random: [u8; 16]) -> Self {
                Self(encode(random))
            }

            /// The 25 characters.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 characters, as `docker` shows ids.
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let valid = text.len() == LEN
                    && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
                if valid { Ok(Self(text.to_owned())) } else { Err(InvalidId(text.to_owned())) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
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
        assert!("UPPER".parse::<ServiceId>().is_err());
    }
}
