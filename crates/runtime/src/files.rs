//! What a task finds in its file system besides its image, and what it takes to get it
//! there.

use std::net::IpAddr;

use model::RegistryAuth;

use crate::TaskFile;

/// Host name, addresses, name servers, configs and secrets of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFiles {
    /// Its host name.
    pub hostname: String,
    /// What its host name means.
    pub addresses: Vec<IpAddr>,
    /// Who it asks for names.
    pub nameservers: Vec<IpAddr>,
    /// Its configs and secrets.
    pub files: Vec<TaskFile>,
    /// With what its image is fetched.
    pub registry_auth: Option<RegistryAuth>,
}

impl TaskFiles {
    /// Options of resolv.conf(5): each name is asked for as it is.
    pub(crate) const OPTIONS: &'static str = "ndots:0";

    /// Text of /etc/hosts.
    pub(crate) fn hosts(&self) -> String {
        let mut text =
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
        for address in &self.addresses {
            text.push_str(&format!("{address}\t{}\n", self.hostname));
        }
        text
    }

    /// Text of /etc/resolv.conf.
    pub(crate) fn resolv_conf(&self) -> String {
        let servers = self.nameservers.iter();
        let mut text: String = servers
            .map(|server| format!("nameserver {server}\n"))
            .collect();
        if !text.is_empty() {
            text.push_str(&format!("options {}\n", Self::OPTIONS));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_their_usual_form() {
        let files = TaskFiles {
            hostname: "vote.1".to_owned(),
            addresses: vec!["10.100.0.2".parse().unwrap()],
            nameservers: vec!["10.100.0.1".parse().unwrap()],
            files: Vec::new(),
            registry_auth: None,
        };
        assert_eq!(
            files.resolv_conf(),
            "nameserver 10.100.0.1\noptions ndots:0\n"
        );
        assert!(files.hosts().ends_with("\n10.100.0.2\tvote.1\n"));
        assert_eq!(TaskFiles::default().resolv_conf(), "");
    }
}
