//! What a service's `ipvsmesh.*` labels say: options that Docker's specs have no
//! words for, so that one spec says everything, whichever client sent it.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use crate::{DnsOptions, Probe, duration};

/// IPVS schedulers by their kernel names, as of Linux 6.1
/// (`net/netfilter/ipvs/Kconfig`).
pub const SCHEDULERS: [&str; 14] = [
    "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos",
];

/// The label of each option.
pub mod label {
    /// What runs a service's tasks: `docker`, `process`, `static` or `adopted`; not among
    /// [`ALL`].
    pub const RUNTIME: &str = "ipvsmesh.runtime";
    /// [`Scheduler`](super::Scheduler).
    pub const SCHEDULER: &str = "ipvsmesh.scheduler";
    /// [`Weights`](super::Weights).
    pub const WEIGHT: &str = "ipvsmesh.weight";
    /// [`Affinity`](super::Affinity).
    pub const AFFINITY: &str = "ipvsmesh.affinity";
    /// [`ConnectionLimit`](super::ConnectionLimit).
    pub const CONNECTION_LIMIT: &str = "ipvsmesh.connection-limit";
    /// A duration: how long connections may go on after their task is to leave.
    pub const DRAIN_TIMEOUT: &str = "ipvsmesh.drain-timeout";
    /// [`PullPolicy`](crate::PullPolicy); of the tasks, so that changing it replaces
    /// them, and not among [`ALL`].
    pub const PULL: &str = "ipvsmesh.pull";
    /// [`Server`](crate::Server)s of a static service, separated by commas; who is one is
    /// no option, and so it is not among [`ALL`].
    pub const ENDPOINTS: &str = "ipvsmesh.endpoints";
    /// Of a container that is not the mesh's: the service that it belongs to.
    pub const SERVICE: &str = "ipvsmesh.service";
    /// Of such a container: the port that it listens on.
    pub const PORT: &str = "ipvsmesh.port";
    /// Of such a container: ports of the host that lead to it, as `--publish` has them.
    pub const PUBLISH: &str = "ipvsmesh.publish";
    /// [`Probe`](crate::Probe).
    pub const PROBE: &str = "ipvsmesh.probe";
    /// [`DnsOptions::ttl`](crate::DnsOptions::ttl).
    pub const DNS_TTL: &str = "ipvsmesh.dns-ttl";
    /// [`DnsOptions::answers`](crate::DnsOptions::answers).
    pub const DNS_ANSWERS: &str = "ipvsmesh.dns-answers";
    /// [`DnsOptions::ports`](crate::DnsOptions::ports).
    pub const PORT_NAMES: &str = "ipvsmesh.port-names";
    /// All that may be changed while tasks run.
    pub const ALL: [&str; 9] = [
        SCHEDULER,
        WEIGHT,
        AFFINITY,
        CONNECTION_LIMIT,
        DRAIN_TIMEOUT,
        PROBE,
        DNS_TTL,
        DNS_ANSWERS,
        PORT_NAMES,
    ];
}

/// A service's options; each has a default, and may be changed while it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Which task a new connection goes to.
    pub scheduler: Scheduler,
    /// How much each task gets, by schedulers that weigh.
    pub weights: Weights,
    /// Whether a client stays with its task.
    pub affinity: Option<Affinity>,
    /// How many connections a task takes at once.
    pub limit: ConnectionLimit,
    /// How long connections may go on after their task is to leave.
    pub drain_timeout: Duration,
    /// How it is found out whether a task serves; `None` with a label: it does once it
    /// runs.
    pub probe: Option<Probe>,
    /// What is answered for its names.
    pub dns: DnsOptions,
}

impl Default for Options {
    /// Round robin, all alike, no affinity, no limit, and 30 s to drain.
    fn default() -> Self {
        Self {
            scheduler: Scheduler("rr"),
            weights: Weights::default(),
            affinity: None,
            limit: ConnectionLimit::default(),
            drain_timeout: Duration::from_secs(30),
            probe: None,
            dns: DnsOptions::default(),
        }
    }
}

/// Why an option was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOption {
    /// No scheduler of IPVS.
    #[error("scheduler {0:?} is not known: use one of {list}", list = SCHEDULERS.join(", "))]
    Scheduler(String),
    /// Not a weight.
    #[error(
        "weight {0:?} is not valid: use a number from 0 to 65535 for all tasks, or SLOT=NUMBER,... for some"
    )]
    Weight(String),
    /// Not an affinity.
    #[error(
        "affinity {0:?} is not valid: use none, or client-ip[,TIMEOUT][,/PREFIX], such as client-ip,1h,/24"
    )]
    Affinity(String),
    /// Not a limit.
    #[error(
        "connection limit {0:?} is not valid: use UPPER[:LOWER], numbers of connections a task, LOWER below UPPER"
    )]
    Limit(String),
    /// Not a duration.
    #[error("drain timeout {0:?} is not valid: use a duration, such as 30s or 5m")]
    Drain(String),
    /// Not a probe.
    #[error(
        "probe {0:?} is not valid: use none, tcp:PORT or http:PORT[/PATH], and ,interval=5s,timeout=5s,retries=3,start-period=30s"
    )]
    Probe(String),
    /// Not a time to live.
    #[error("TTL {0:?} is not valid: use whole seconds up to a day, such as 0s or 5s")]
    DnsTtl(String),
    /// Not a number of addresses.
    #[error(
        "number of addresses {0:?} is not valid: use 1 for one address an answer, or another number up to 65535; 0 is all"
    )]
    DnsAnswers(String),
    /// Not names of ports.
    #[error(
        "port names {0:?} are not valid: use NAME=PORT[/PROTOCOL],..., such as http=80,dns=53/udp, with names of up to 15 of a-z, 0-9 and -"
    )]
    PortNames(String),
}

impl Options {
    /// Reads the labels; what is not said has its default.
    ///
    /// # Errors
    /// [`InvalidOption`] says which label is wrong.
    pub fn of(labels: &BTreeMap<String, String>) -> Result<Self, InvalidOption> {
        let mut options = Self::default();
        let get = |label: &str| labels.get(label).map(|text| text.trim());
        if let Some(text) = get(label::SCHEDULER) {
            options.scheduler = text.parse()?;
        }
        if let Some(text) = get(label::WEIGHT) {
            options.weights = text.parse()?;
        }
        if let Some(text) = get(label::AFFINITY) {
            options.affinity = affinity(text)?;
        }
        if let Some(text) = get(label::CONNECTION_LIMIT) {
            options.limit = text.parse()?;
        }
        if let Some(text) = get(label::DRAIN_TIMEOUT) {
            let wrong = || InvalidOption::Drain(text.to_owned());
            options.drain_timeout = duration(text.trim()).map_err(|_| wrong())?;
        }
        if let Some(text) = get(label::PROBE).filter(|text| *text != "none") {
            options.probe = Some(text.parse()?);
        }
        options.dns = DnsOptions::of(get)?;
        Ok(options)
    }
}

/// An IPVS scheduler by its kernel name. Which of them a kernel has, the `kernel`
/// crate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduler(&'static str);

impl Scheduler {
    /// Its kernel name.
    pub fn as_str(self) -> &'static str {
        self.0
    }

    /// Flags that it works with: one that hashes takes another task where its
    /// choice is leaving or full, instead of refusing (`IP_VS_SVC_F_SCHED_SH_FALLBACK`,
    /// `IP_VS_SVC_F_SCHED_MH_FALLBACK`).
    pub fn flags(self) -> u32 {
        match self.as_str() {
            "sh" | "mh" => 8,
            _ => 0,
        }
    }
}

impl FromStr for Scheduler {
    type Err = InvalidOption;
    fn from_str(text: &str) -> Result<Self, InvalidOption> {
        let known = SCHEDULERS.into_iter().find(|known| *known == text);
        let unknown = || InvalidOption::Scheduler(text.to_owned());
        known.map(Self).ok_or_else(unknown)
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Weights of tasks, by their slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Of tasks that are not named.
    others: u32,
    by_slot: BTreeMap<u32, u32>,
}

impl Default for Weights {
    /// All alike.
    fn default() -> Self {
        Self {
            others: 1,
            by_slot: BTreeMap::new(),
        }
    }
}

impl Weights {
    /// The weight of the task of this slot; 0 takes no new connections.
    pub fn of(&self, slot: u32) -> u32 {
        self.by_slot.get(&slot).copied().unwrap_or(self.others)
    }
}

impl FromStr for Weights {
    type Err = InvalidOption;
    /// `3`: all tasks; `1=3,2=0`: these slots, the others 1; `2,1=3`: both.
    fn from_str(text: &str) -> Result<Self, InvalidOption> {
        let wrong = || InvalidOption::Weight(text.to_owned());
        let weight = |text: &str| digits(text).filter(|n| *n <= 65_535).ok_or_else(wrong);
        let mut weights = Self::default();
        for part in text.split(',') {
            match part.split_once('=') {
                None => weights.others = weight(part)?,
                Some((slot, number)) => {
                    let slot = digits(slot).filter(|slot| *slot > 0).ok_or_else(wrong)?;
                    weights.by_slot.insert(slot, weight(number)?);
                }
            }
        }
        Ok(weights)
    }
}

/// A client's connections go to one task; IPVS calls it persistence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// How long after its last connection; whole seconds.
    pub timeout: Duration,
    /// How much of an IPv4 client's address counts, in bits.
    pub prefix: u8,
    /// How much of an IPv6 client's.
    pub prefix6: u8,
}

impl Default for Affinity {
    /// Three hours, as Kubernetes has it, and whole addresses.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10_800),
            prefix: 32,
            prefix6: 128,
        }
    }
}

/// `none`, or `client-ip` with a time-out and prefix lengths, in any order: up to
/// 32 it is IPv4's, above it is IPv6's.
fn affinity(text: &str) -> Result<Option<Affinity>, InvalidOption> {
    let wrong = || InvalidOption::Affinity(text.to_owned());
    let mut parts = text.split(',');
    match parts.next() {
        Some("none") if parts.next().is_none() => return Ok(None),
        Some("client-ip") => {}
        _ => return Err(wrong()),
    }
    let mut affinity = Affinity::default();
    for part in parts {
        if let Some(prefix) = part.strip_prefix('/') {
            match digits(prefix).and_then(|n| u8::try_from(n).ok()) {
                Some(n @ 1..=32) => affinity.prefix = n,
                Some(n @ 33..=128) => affinity.prefix6 = n,
                _ => return Err(wrong()),
            }
        } else {
            let timeout = duration(part.trim()).map_err(|_| wrong())?;
            // the kernel counts seconds, up to 31 days of them
            if timeout.subsec_nanos() > 0 || !(1..=2_678_400).contains(&timeout.as_secs()) {
                return Err(wrong());
            }
            affinity.timeout = timeout;
        }
    }
    Ok(Some(affinity))
}

/// How many connections a task takes at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionLimit {
    /// From so many on it takes no new ones; 0: no limit.
    pub upper: u32,
    /// Below so many it takes new ones again; 0: three quarters of the upper one.
    pub lower: u32,
}

impl FromStr for ConnectionLimit {
    type Err = InvalidOption;
    /// `UPPER` or `UPPER:LOWER`; 0 is no limit.
    fn from_str(text: &str) -> Result<Self, InvalidOption> {
        let wrong = || InvalidOption::Limit(text.to_owned());
        let (upper, lower) = match text.split_once(':') {
            None => (digits(text), Some(0)),
            Some((upper, lower)) => (digits(upper), digits(lower)),
        };
        let (upper, lower) = (upper.ok_or_else(wrong)?, lower.ok_or_else(wrong)?);
        if lower > 0 && lower >= upper {
            return Err(wrong());
        }
        Ok(Self { upper, lower })
    }
}

/// A number without a sign.
pub(crate) fn digits(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(label: &str, text: &str) -> Result<Options, InvalidOption> {
        Options::of(&BTreeMap::from([(label.to_owned(), text.to_owned())]))
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(Options::of(&BTreeMap::new()), Ok(Options::default()));
    }

    #[test]
    fn schedulers_are_ipvss() {
        let mh = read(label::SCHEDULER, "mh").unwrap().scheduler;
        assert_eq!((mh.as_str(), mh.flags()), ("mh", 8));
        assert_eq!(read(label::SCHEDULER, "wlc").unwrap().scheduler.flags(), 0);
        for bad in ["", "RR", "random", "rr,wrr"] {
            assert!(read(label::SCHEDULER, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn weights_are_of_all_or_by_slot() {
        let of = |text: &str| {
            let weights = read(label::WEIGHT, text).unwrap().weights;
            [weights.of(1), weights.of(2), weights.of(3)]
        };
        assert_eq!(of("5"), [5, 5, 5]);
        assert_eq!(of("1=3,2=0"), [3, 0, 1]);
        assert_eq!(of("2,3=65535"), [2, 2, 65_535]);
        for bad in [
            "", "-1", "+1", "65536", "1=", "=1", "0=1", "1=1=1", "1,", "x",
        ] {
            assert!(read(label::WEIGHT, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn affinities_have_a_timeout_and_prefixes() {
        let of = |text: &str| {
            let affinity = read(label::AFFINITY, text).unwrap().affinity;
            affinity.map(|a| (a.timeout.as_secs(), a.prefix, a.prefix6))
        };
        assert_eq!(of("none"), None);
        assert_eq!(of("client-ip"), Some((10_800, 32, 128)));
        assert_eq!(of("client-ip,5m"), Some((300, 32, 128)));
        assert_eq!(of("client-ip,/24,1h30m,/64"), Some((5400, 24, 64)));
        for bad in [
            "",
            "ip",
            "none,5m",
            "client-ip,",
            "client-ip,5",
            "client-ip,/0",
            "client-ip,/129",
            "client-ip,0s",
            "client-ip,1500ms",
            "client-ip,/",
            "client-ip,800h",
        ] {
            assert!(read(label::AFFINITY, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn white_space_around_durations_is_none_of_theirs() {
        for (label, text) in [
            (label::DRAIN_TIMEOUT, " 30s "),
            (label::AFFINITY, "client-ip, 30s"),
            (label::DNS_TTL, " 30s"),
        ] {
            let trimmed: String = text.chars().filter(|c| *c != ' ').collect();
            assert_eq!(read(label, text), read(label, &trimmed), "{text:?}");
            assert!(read(label, text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn limits_and_drain_timeouts_are_numbers() {
        let limit = |text: &str| read(label::CONNECTION_LIMIT, text).map(|o| o.limit);
        assert_eq!(
            limit("100"),
            Ok(ConnectionLimit {
                upper: 100,
                lower: 0
            })
        );
        assert_eq!(
            limit("100:80"),
            Ok(ConnectionLimit {
                upper: 100,
                lower: 80
            })
        );
        assert_eq!(limit("0"), Ok(ConnectionLimit::default()));
        for bad in ["", "80:100", "5:5", "-1", "1:", ":1", "4294967296"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
        let drain = |text: &str| read(label::DRAIN_TIMEOUT, text).map(|o| o.drain_timeout);
        assert_eq!(drain("0"), Ok(Duration::ZERO));
        assert_eq!(drain("1m500ms"), Ok(Duration::from_millis(60_500)));
        for bad in ["", "5", "5x", "-5s", "s", "99999999999999999999h"] {
            assert!(drain(bad).is_err(), "{bad}");
        }
    }
}
