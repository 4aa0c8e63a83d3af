use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::TaskId;

/// Which of several daemons on one machine this is. It names everything that a
/// daemon makes, so that each finds its own things and touches no others'.
///
/// The default instance has no name of its own: `ipvsmesh-router`, `ivm0`. An
/// instance `a` has `ipvsmesh-a-router`, `ivm0-a`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Instance(String);

/// The name is not 1 to 8 characters of `[a-z0-9]`.
#[derive(Debug, thiserror::Error)]
#[error(
    "instance {0:?} is not valid: use 1 to 8 characters of a-z and 0-9 (it becomes part of link names, which have 15 at most)"
)]
pub struct InvalidInstance(String);

impl Instance {
    fn dashed(&self) -> String {
        if self.0.is_empty() {
            String::new()
        } else {
            format!("-{}", self.0)
        }
    }

    /// `ipvsmesh` or `ipvsmesh-NAME`: the prefix of namespaces, directories and cgroups.
    pub fn prefix(&self) -> String {
        format!("ipvsmesh{}", self.dashed())
    }

    /// File name under `/run/netns` of the router namespace.
    pub fn router_netns(&self) -> String {
        format!("{}-router", self.prefix())
    }

    /// File name under `/run/netns` of the ingress namespace.
    pub fn ingress_netns(&self) -> String {
        format!("{}-ingress", self.prefix())
    }

    /// File name under `/run/netns` of a task's namespace.
    pub fn task_netns(&self, task: &TaskId) -> String {
        format!("{}-{task}", self.prefix())
    }

    /// The host's end of the veth to the ingress namespace.
    pub fn host_link(&self) -> String {
        format!("ivm0{}", self.dashed())
    }

    /// Prefix of iptables chains in the host namespace, in upper case; the
    /// whole chain name must stay under 29 characters.
    pub fn chain_prefix(&self) -> String {
        self.prefix().to_ascii_uppercase()
    }

    /// Prefix of ipset names in the host namespace.
    pub fn set_prefix(&self) -> String {
        format!("ivm{}", self.dashed())
    }

    /// `/run/ipvsmesh[-NAME]`: socket, task directories, the responder's socket; gone with a reboot.
    pub fn run_dir(&self) -> PathBuf {
        PathBuf::from("/run").join(self.prefix())
    }

    /// `/var/lib/ipvsmesh[-NAME]`: the store and task logs; kept.
    pub fn data_dir(&self) -> PathBuf {
        PathBuf::from("/var/lib").join(self.prefix())
    }

    /// The API socket, `ipvsmesh.sock` in [`Self::run_dir`].
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("ipvsmesh.sock")
    }

    /// The cgroup (version 2) directory below which each process task has its own.
    pub fn cgroup(&self) -> PathBuf {
        PathBuf::from("/sys/fs/cgroup").join(self.prefix())
    }
}

impl FromStr for Instance {
    type Err = InvalidInstance;
    fn from_str(text: &str) -> Result<Self, InvalidInstance> {
        let valid = (1..=8).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
            // `ipvsmesh-router` must not be both a namespace and an instance's prefix
            && !["router", "ingress"].contains(&text);
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidInstance(text.to_owned()))
        }
    }
}

impl TryFrom<String> for Instance {
    type Error = InvalidInstance;
    fn try_from(text: String) -> Result<Self, InvalidInstance> {
        if text.is_empty() {
            Ok(Self::default())
        } else {
            text.parse()
        }
    }
}

impl From<Instance> for String {
    fn from(instance: Instance) -> Self {
        instance.0
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_not_fit_or_be_mistaken_are_refused() {
        for bad in [
            "A",
            "a-b",
            "a_b",
            "123456789",
            "router",
            "ingress",
            "ü",
            "a/b",
            " ",
        ] {
            assert!(bad.parse::<Instance>().is_err(), "{bad}");
        }
        assert!("".parse::<Instance>().is_err());
        assert_eq!(
            Instance::try_from(String::new()).unwrap(),
            Instance::default()
        );
        let error = "Wrong!".parse::<Instance>().unwrap_err().to_string();
        assert!(error.contains("\"Wrong!\"") && error.contains("1 to 8"));
    }

    #[test]
    fn what_an_instance_makes_fits_the_kernels_names() {
        let task = TaskId::from_random([1; 16]);
        let long: Instance = "12345678".parse().unwrap();
        // links 15, chains 28, sets 31, as the kernel and iptables have it
        assert!(long.host_link().len() <= 15);
        assert!(format!("{}-INGRESS", long.chain_prefix()).len() <= 28);
        assert!(format!("{}-tcp", long.set_prefix()).len() <= 31);
        assert_eq!(Instance::default().host_link(), "ivm0");
        assert_eq!(Instance::default().router_netns(), "ipvsmesh-router");
        assert_eq!(
            Instance::default().socket(),
            PathBuf::from("/run/ipvsmesh/ipvsmesh.sock")
        );
        assert_eq!(long.ingress_netns(), "ipvsmesh-12345678-ingress");
        assert!(long.task_netns(&task).ends_with(task.as_str()));
    }

    #[test]
    fn two_instances_share_no_name() {
        let all = ["", "a", "tcp", "fwd", "host"]
            .map(|name| Instance::try_from(name.to_owned()).unwrap());
        let names = |instance: &Instance| {
            [
                instance.router_netns(),
                instance.ingress_netns(),
                instance.host_link(),
                format!("{}-FWD", instance.chain_prefix()),
                format!("{}-INGRESS", instance.chain_prefix()),
                format!("{}-tcp", instance.set_prefix()),
                instance.run_dir().display().to_string(),
                instance.data_dir().display().to_string(),
                instance.cgroup().display().to_string(),
            ]
        };
        let mut seen = std::collections::BTreeSet::new();
        for name in all.iter().flat_map(names) {
            assert!(seen.insert(name.clone()), "{name} is two instances'");
        }
    }
}
