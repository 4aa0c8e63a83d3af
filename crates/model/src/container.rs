use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::FileRef;

/// A task in a container of the Docker Engine. What is not said is as the image
/// or the engine has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// `[REGISTRY/]NAME[:TAG][@DIGEST]`
    pub image: String,
    /// When the image is fetched from its registry.
    pub pull: PullPolicy,
    /// In the place of the image's entry point, where it is not empty.
    pub command: Vec<String>,
    /// In the place of the image's command, where they are not empty.
    pub args: Vec<String>,
    /// Host name; the task's name without.
    pub hostname: Option<String>,
    /// `KEY=VALUE`s; a `KEY` alone takes the image's away.
    pub env: Vec<String>,
    /// Labels of the container.
    pub labels: BTreeMap<String, String>,
    /// `NAME[:GROUP]` or numbers.
    pub user: Option<String>,
    /// Further groups of the user.
    pub groups: Vec<String>,
    /// Working directory.
    pub dir: Option<String>,
    /// What it sees in its file system besides the image.
    pub mounts: Vec<Mount>,
    /// Configs and secrets, as files.
    pub files: Vec<FileRef>,
    /// What it may use, and what is kept for it.
    pub resources: Resources,
    /// Capabilities besides the engine's usual ones.
    pub cap_add: Vec<String>,
    /// Capabilities that it does not get.
    pub cap_drop: Vec<String>,
    /// How it is found whether it serves.
    pub health: Option<HealthCheck>,
    /// Signal that asks it to stop; the image's or SIGTERM without.
    pub stop_signal: Option<String>,
    /// How long it has from that signal until it is killed; 10 s without.
    pub stop_grace: Option<Duration>,
    /// Whether an init process of the engine's is its first.
    pub init: Option<bool>,
    /// Its root file system cannot be written.
    pub read_only: bool,
    /// It has a terminal as its input and outputs.
    pub tty: bool,
    /// Where its outputs go.
    pub log: Option<LogDriver>,
    /// Further lines of /etc/hosts: `ADDRESS NAME...`
    pub hosts: Vec<String>,
    /// Other words for its /etc/resolv.conf.
    pub dns: DnsConfig,
    /// Namespaced sysctls.
    pub sysctls: BTreeMap<String, String>,
    /// Limits of setrlimit(2).
    pub ulimits: Vec<Ulimit>,
    /// How readily the kernel kills it when memory is short, -1000 to 1000.
    pub oom_score_adj: Option<i64>,
}

impl ContainerSpec {
    /// How long it has to stop; Swarm's value where nothing is said.
    pub fn grace(&self) -> Duration {
        self.stop_grace.unwrap_or(Duration::from_secs(10))
    }
}

/// When an image is fetched from its registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    /// Before each task.
    Always,
    /// Where the node does not have it.
    #[default]
    Missing,
    /// Never: the node must have it.
    Never,
}

impl PullPolicy {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Missing => "missing",
            Self::Never => "never",
        }
    }
}

/// A word that is no pull policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pull policy {0:?} is not known: use always, missing or never")]
pub struct InvalidPull(String);

impl std::str::FromStr for PullPolicy {
    type Err = InvalidPull;
    fn from_str(text: &str) -> Result<Self, InvalidPull> {
        let all = [Self::Always, Self::Missing, Self::Never];
        let found = all.into_iter().find(|policy| policy.as_str() == text);
        found.ok_or_else(|| InvalidPull(text.to_owned()))
    }
}

/// Something put into a container's file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where, an absolute path in the container.
    pub target: String,
    /// It cannot be written there.
    #[serde(default)]
    pub read_only: bool,
    /// What.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A file or directory of the host.
    Bind {
        /// Its absolute path.
        source: String,
        /// `rprivate`, `private`, `rshared`, `shared`, `rslave`, `slave`.
        #[serde(default)]
        propagation: Option<String>,
        /// Without what is mounted below it.
        #[serde(default)]
        non_recursive: bool,
    },
    /// A volume of the engine's, made where there is none.
    Volume {
        /// Its name; one of the container's own without.
        #[serde(default)]
        source: Option<String>,
        /// What the image has there is not copied into an empty one.
        #[serde(default)]
        no_copy: bool,
        /// Labels of one that is made.
        #[serde(default)]
        labels: BTreeMap<String, String>,
        /// Driver of one that is made; the engine's usual one without.
        #[serde(default)]
        driver: Option<String>,
        /// Options for that driver.
        #[serde(default)]
        options: BTreeMap<String, String>,
    },
    /// A file system in memory.
    Tmpfs {
        /// Largest size in octets; 0: the kernel's default.
        #[serde(default)]
        size: u64,
        /// Permissions of its root; 0: 1777.
        #[serde(default)]
        mode: u32,
    },
}

/// Limits and reservations; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Billionths of a processor that it may use.
    pub cpus: u64,
    /// Octets of memory that it may use.
    pub memory: u64,
    /// Processes that it may have.
    pub pids: u64,
    /// Billionths of a processor kept for it.
    pub reserved_cpus: u64,
    /// Octets of memory kept for it.
    pub reserved_memory: u64,
}

/// A check that the engine makes inside the container; what is `None` or empty is
/// as the image says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", LINE]`.
    pub test: Vec<String>,
    /// Time between checks.
    pub interval: Option<Duration>,
    /// Longest time of one.
    pub timeout: Option<Duration>,
    /// So many failures in a row mean that it is not well.
    pub retries: Option<u32>,
    /// Failures do not count for so long after its start.
    pub start_period: Option<Duration>,
    /// Time between checks in that period.
    pub start_interval: Option<Duration>,
}

/// Where a container's outputs go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogDriver {
    /// Name; the engine's usual one where it is empty.
    pub name: String,
    /// Its options.
    pub options: BTreeMap<String, String>,
}

/// How a container asks for names; an empty list is the mesh's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    /// Asked by the mesh's responder for other names, in the place of the host's servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// Options of resolv.conf(5).
    pub options: Vec<String>,
}

/// A limit of setrlimit(2); -1: none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Such as `nofile`.
    pub name: String,
    /// The one that counts.
    pub soft: i64,
    /// Up to which the process may raise it.
    pub hard: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_not_needed_to_read_it() {
        let spec: ContainerSpec = serde_json::from_str(r#"{"image":"web"}"#).unwrap();
        let expected = ContainerSpec {
            image: "web".to_owned(),
            ..ContainerSpec::default()
        };
        assert_eq!(spec, expected);
        assert_eq!(spec.grace(), Duration::from_secs(10));
    }

    #[test]
    fn pull_policies_are_words() {
        for policy in [PullPolicy::Always, PullPolicy::Missing, PullPolicy::Never] {
            assert_eq!(policy.as_str().parse(), Ok(policy));
        }
        let error = "sometimes".parse::<PullPolicy>().unwrap_err().to_string();
        assert!(error.contains("always, missing or never"));
    }
}
