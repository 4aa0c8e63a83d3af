use std::{str::FromStr, time::Duration};

use crate::{
    duration,
    options::{InvalidOption, digits},
};

/// How the mesh itself finds out whether a task serves, where the task's own
/// runtime does not check that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub kind: ProbeKind,
    /// The task's port.
    pub port: u16,
    /// How long after one answer it is asked again.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// So many failures in a row make it unhealthy.
    pub retries: u32,
    /// Until it was healthy once, failures within this time do not count.
    pub start_period: Duration,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Whether a connection can be made.
    Tcp,
    /// Whether `GET` of this path is answered with a status from 200 to 399.
    Http(String),
}

impl FromStr for Probe {
    type Err = InvalidOption;
    /// `tcp:PORT` or `http:PORT[/PATH]`, then `,KEY=VALUE`s in any order.
    fn from_str(text: &str) -> Result<Self, InvalidOption> {
        let wrong = || InvalidOption::Probe(text.to_owned());
        let mut parts = text.split(',');
        let (kind, at) = parts
            .next()
            .and_then(|part| part.split_once(':'))
            .ok_or_else(wrong)?;
        let (port, path) = match at.find('/') {
            Some(slash) => at.split_at(slash),
            None => (at, ""),
        };
        let printable = path.bytes().all(|byte| byte.is_ascii_graphic());
        let kind = match (kind, path) {
            ("tcp", "") => ProbeKind::Tcp,
            ("http", "") => ProbeKind::Http("/".to_owned()),
            ("http", path) if printable => ProbeKind::Http(path.to_owned()),
            _ => return Err(wrong()),
        };
        let port = digits(port).and_then(|port| u16::try_from(port).ok());
        let mut probe = Self {
            kind,
            port: port.filter(|port| *port > 0).ok_or_else(wrong)?,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            retries: 3,
            start_period: Duration::from_secs(30),
        };
        for part in parts {
            let (key, value) = part.split_once('=').ok_or_else(wrong)?;
            let time = || duration(value.trim()).map_err(|_| wrong());
            // a time without length would ask without a pause, or never be kept
            let length = || {
                time().and_then(|time| {
                    if time.is_zero() {
                        Err(wrong())
                    } else {
                        Ok(time)
                    }
                })
            };
            match key {
                "interval" => probe.interval = length()?,
                "timeout" => probe.timeout = length()?,
                "start-period" => probe.start_period = time()?,
                "retries" => {
                    let number = digits(value).filter(|number| *number > 0);
                    probe.retries = number.ok_or_else(wrong)?;
                }
                _ => return Err(wrong()),
            }
        }
        Ok(probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_a_port_a_path_and_times() {
        let tcp: Probe = "tcp:80".parse().unwrap();
        assert_eq!((tcp.kind, tcp.port, tcp.retries), (ProbeKind::Tcp, 80, 3));
        let http: Probe = "http:8080/up?x=1,interval=2s,timeout=500ms,retries=1,start-period=0"
            .parse()
            .unwrap();
        let expected = Probe {
            kind: ProbeKind::Http("/up?x=1".to_owned()),
            port: 8080,
            interval: Duration::from_secs(2),
            timeout: Duration::from_millis(500),
            retries: 1,
            start_period: Duration::ZERO,
        };
        assert_eq!(http, expected);
        let root: Probe = "http:80".parse().unwrap();
        assert_eq!(root.kind, ProbeKind::Http("/".to_owned()));
        for bad in [
            "",
            "80",
            "tcp",
            "tcp:",
            "tcp:0",
            "tcp:65536",
            "tcp:80/x",
            "udp:80",
            "http:80/a b",
            "tcp:80,",
            "tcp:80,interval=0",
            "tcp:80,retries=0",
            "tcp:80,interval=5",
            "tcp:80,x=1",
        ] {
            assert!(bad.parse::<Probe>().is_err(), "{bad}");
        }
    }
}
