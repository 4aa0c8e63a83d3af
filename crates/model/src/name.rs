use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::text::serde_by_text;

/// Name of a service or a network: a DNS label, in docker's form
/// `[a-zA-Z0-9]([-_]*[a-zA-Z0-9]+)*`, at most 63 characters (RFC 1035 §2.3.4).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing was given.
    #[error("name is empty: give 1 to 63 characters of a-z, A-Z, 0-9, - and _")]
    Empty,
    /// A DNS label has 63 octets at most.
    #[error("name {0:?} is too long ({len} characters): a DNS label has 63 at most", len = .0.len())]
    TooLong(String),
    /// Something else than letters, digits, `-` and `_`, or one of the last two at an end.
    #[error(
        "name {0:?} is not valid as a DNS name component: use a-z, A-Z, 0-9, - and _, and begin and end with a letter or digit"
    )]
    Characters(String),
}

impl Name {
    /// The name as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form that must be unique: DNS does not tell cases apart.
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl FromStr for Name {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let alphanumeric = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        let ends = alphanumeric(text.bytes().next()) && alphanumeric(text.bytes().next_back());
        let all = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !(ends && all) {
            return Err(InvalidName::Characters(text.to_owned()));
        }
        if text.len() > 63 {
            return Err(InvalidName::TooLong(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

serde_by_text!(Name);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_docker() {
        for good in ["a", "vote", "Vote-2", "a_b--c", &"x".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "a.b",
            "a b",
            "ü",
            "_",
            &"x".repeat(64),
            "a/b",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
