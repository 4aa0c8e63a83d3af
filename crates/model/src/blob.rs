use std::{collections::BTreeMap, fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::BlobId;

/// What Docker calls a config or a secret: octets with a name, which tasks get as a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Identity.
    pub id: BlobId,
    /// Which of the two.
    pub kind: BlobKind,
    /// As asked; only its labels may change.
    pub spec: BlobSpec,
    /// When it was made.
    pub created: Timestamp,
    /// When its labels were last asked to be others.
    pub updated: Timestamp,
}

/// What a person asks of a config or a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobSpec {
    /// Unique among its kind.
    pub name: String,
    /// Docker labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What is in it.
    pub data: Octets,
}

/// Which of Docker's two kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    /// Shown to whoever asks.
    Config,
    /// Never shown again.
    Secret,
}

impl BlobKind {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Secret => "secret",
        }
    }

    /// So many octets at most, as Docker has it.
    pub fn largest(self) -> usize {
        match self {
            Self::Config => 1000 << 10,
            Self::Secret => 500 << 10,
        }
    }

    /// The directory of a container in which it is, where no absolute path is asked for.
    pub fn directory(self) -> &'static str {
        match self {
            Self::Config => "/",
            Self::Secret => "/run/secrets/",
        }
    }

    /// The same of a process, which has the host's files and so no root of its own.
    pub fn process_directory(self) -> &'static str {
        match self {
            Self::Config => "/run/configs/",
            Self::Secret => "/run/secrets/",
        }
    }
}

impl fmt::Display for BlobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Octets that no log shows; base64 (RFC 4648 §4) in JSON, as Docker has them.
#[derive(Clone, PartialEq, Eq)]
pub struct Octets(Arc<[u8]>);

impl Octets {
    /// The octets.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The octets that base64 stands for; `None` where it is none.
    pub fn from_base64(text: &str) -> Option<Self> {
        STANDARD.decode(text).ok().map(Self::from)
    }

    /// As base64.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(&self.0)
    }
}

impl From<Vec<u8>> for Octets {
    fn from(octets: Vec<u8>) -> Self {
        Self(octets.into())
    }
}

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Octets({} of them)", self.0.len())
    }
}

impl Serialize for Octets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_base64())
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_base64(&text).ok_or_else(|| serde::de::Error::custom("it is not base64"))
    }
}

/// A config or a secret as a file of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Which of the two.
    pub kind: BlobKind,
    /// Which one.
    pub blob: BlobId,
    /// Its name.
    pub name: String,
    /// Path of the file; below the directory of its kind where it is not absolute.
    pub target: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions.
    pub mode: u32,
}

impl FileRef {
    /// Permissions where nothing is said: all may read.
    pub const MODE: u32 = 0o444;

    /// The absolute path in a container.
    pub fn path(&self) -> String {
        self.below(self.kind.directory())
    }

    /// The absolute path for a process.
    pub fn process_path(&self) -> String {
        self.below(self.kind.process_directory())
    }

    fn below(&self, directory: &str) -> String {
        match self.target.starts_with('/') {
            true => self.target.clone(),
            false => format!("{directory}{}", self.target),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_it_is_base64_in_json_and_nowhere_else() {
        let octets = Octets::from(b"hush\0".to_vec());
        let text = serde_json::to_string(&octets).unwrap();
        assert_eq!(text, "\"aHVzaAA=\"");
        assert_eq!(serde_json::from_str::<Octets>(&text).unwrap(), octets);
        assert!(serde_json::from_str::<Octets>("\"a\"").is_err());
        assert_eq!(format!("{octets:?}"), "Octets(5 of them)");
    }

    #[test]
    fn files_are_where_docker_has_them() {
        let file = |kind, target: &str| FileRef {
            kind,
            blob: BlobId::FIRST,
            name: "x".to_owned(),
            target: target.to_owned(),
            uid: 0,
            gid: 0,
            mode: FileRef::MODE,
        };
        assert_eq!(file(BlobKind::Config, "a").path(), "/a");
        assert_eq!(file(BlobKind::Secret, "a").path(), "/run/secrets/a");
        assert_eq!(file(BlobKind::Secret, "/etc/a").path(), "/etc/a");
        assert_eq!(file(BlobKind::Config, "a").process_path(), "/run/configs/a");
    }
}
