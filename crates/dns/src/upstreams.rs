//! The servers for all other names: those of the host's resolv.conf, as it is now.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

/// How often the file is looked at, when questions come.
const LOOK: Duration = Duration::from_secs(1);
/// How long a server that did not answer is asked last.
const AILING: Duration = Duration::from_secs(30);

/// Servers, and how they fared.
pub(crate) struct Upstreams {
    file: PathBuf,
    port: u16,
    looked: Option<Instant>,
    changed: Option<SystemTime>,
    servers: Vec<IpAddr>,
    ailing: HashMap<IpAddr, Instant>,
}

impl Upstreams {
    pub(crate) fn new(file: PathBuf, port: u16) -> Self {
        Self {
            file,
            port,
            looked: None,
            changed: None,
            servers: Vec::new(),
            ailing: HashMap::new(),
        }
    }

    /// Looks at the file again if it is time to; whether the servers are others now. The
    /// daemon may be dead: nobody else would tell us.
    pub(crate) fn refresh(&mut self, now: Instant) -> bool {
        let recent = |looked: Instant| now.saturating_duration_since(looked) < LOOK;
        if self.looked.is_some_and(recent) {
            return false;
        }
        self.looked = Some(now);
        // of what a link leads to: systemd-resolved and NetworkManager make one
        let changed = fs::metadata(&self.file)
            .and_then(|file| file.modified())
            .ok();
        if changed == self.changed && changed.is_some() {
            return false;
        }
        self.changed = changed;
        let servers = nameservers(&fs::read_to_string(&self.file).unwrap_or_default());
        if servers == self.servers {
            return false;
        }
        tracing::info!(?servers, file = %self.file.display(), "asking these servers for other names");
        self.servers = servers;
        self.ailing.clear();
        true
    }

    /// The host's servers.
    pub(crate) fn of_host(&self) -> &[IpAddr] {
        &self.servers
    }

    /// These servers in the order in which they are asked: those that did not answer
    /// lately come last.
    pub(crate) fn in_order(&self, servers: &[IpAddr], now: Instant) -> Vec<SocketAddr> {
        let is_ailing = |server: &IpAddr| {
            let since = self.ailing.get(server);
            since.is_some_and(|since| now.saturating_duration_since(*since) < AILING)
        };
        let mut servers = servers.to_vec();
        servers.sort_by_key(is_ailing);
        let servers = servers.into_iter();
        servers.map(|ip| SocketAddr::new(ip, self.port)).collect()
    }

    /// Remembers that a server answered, or did not.
    pub(crate) fn fared(&mut self, server: IpAddr, well: bool, now: Instant) {
        match well {
            true => drop(self.ailing.remove(&server)),
            false => drop(self.ailing.insert(server, now)),
        }
    }
}

/// The servers of a resolv.conf(5), in order. A stub on 127.0.0.53 stays in: we ask from
/// the host's namespace.
pub fn nameservers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        // a link-local one has its link after a %, which a plain address cannot say
        address.parse().ok()
    };
    text.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::replace;

    #[test]
    fn nameservers_are_read_as_libc_does() {
        let text = "# nameserver 1.1.1.1\nnameserver 127.0.0.53\n search a b\nnameserver\tfd00::1 # two\nnameservers 9.9.9.9\nnameserver fe80::1%eth0\nnameserver\n";
        let expected: [IpAddr; 2] = ["127.0.0.53".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(nameservers(text), expected);
    }

    #[test]
    fn the_file_is_followed_whoever_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other) = (dir.path().join("resolv.conf"), dir.path().join("stub"));
        let mut upstreams = Upstreams::new(file.clone(), 53);
        let mut now = Instant::now();
        assert!(!upstreams.refresh(now) && upstreams.of_host().is_empty());
        fs::write(&other, "nameserver 192.0.2.1\n").unwrap();
        std::os::unix::fs::symlink(&other, &file).unwrap();
        assert!(!upstreams.refresh(now), "too soon");
        now += LOOK;
        assert!(upstreams.refresh(now));
        assert_eq!(upstreams.of_host(), [IpAddr::from([192, 0, 2, 1])]);
        replace(&file, "nameserver 192.0.2.2\n");
        now += LOOK;
        assert!(upstreams.refresh(now));
        assert_eq!(upstreams.of_host(), [IpAddr::from([192, 0, 2, 2])]);
        now += LOOK;
        assert!(!upstreams.refresh(now));
    }

    #[test]
    fn who_did_not_answer_is_asked_last_for_a_while() {
        let [one, two] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
        let mut upstreams = Upstreams::new(PathBuf::new(), 53);
        let now = Instant::now();
        let order = |upstreams: &Upstreams, now| {
            let order = upstreams.in_order(&[one, two], now);
            order.iter().map(SocketAddr::ip).collect::<Vec<_>>()
        };
        upstreams.fared(one, false, now);
        assert_eq!(order(&upstreams, now), [two, one]);
        assert_eq!(order(&upstreams, now + AILING), [one, two]);
        upstreams.fared(one, true, now);
        assert_eq!(order(&upstreams, now), [one, two]);
    }
}
