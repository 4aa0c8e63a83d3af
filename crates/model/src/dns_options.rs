//! What a service's labels say of the answers for its names.

use std::time::Duration;

use crate::{InvalidOption, Protocol, duration, label, names::PortName, options::digits};

/// What is answered for a service's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsOptions {
    /// How long answers may be remembered, in seconds; the responder's own time without,
    /// and 0 where not all addresses are given.
    pub ttl: Option<u32>,
    /// How many of its addresses an answer has, drawn anew each time; 0: all. With 1 the
    /// responder spreads, where clients that sort addresses (RFC 6724) would all choose
    /// the same one out of a set.
    pub answers: u16,
    /// Names of its ports, for `_NAME._PROTOCOL.SERVICE` (RFC 2782).
    pub ports: Vec<PortName>,
}

impl DnsOptions {
    /// Reads the labels.
    pub(crate) fn of<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, InvalidOption> {
        let mut options = Self::default();
        if let Some(text) = get(label::DNS_ANSWERS) {
            let number = digits(text).and_then(|n| u16::try_from(n).ok());
            options.answers = number.ok_or_else(|| InvalidOption::DnsAnswers(text.to_owned()))?;
            options.ttl = (options.answers > 0).then_some(0);
        }
        if let Some(text) = get(label::DNS_TTL) {
            let ttl = duration(text.trim())
                .ok()
                .filter(|ttl| ttl.subsec_nanos() == 0);
            let ttl = ttl.filter(|ttl| *ttl <= Duration::from_secs(86_400));
            let seconds = ttl.and_then(|ttl| u32::try_from(ttl.as_secs()).ok());
            let wrong = || InvalidOption::DnsTtl(text.to_owned());
            options.ttl = Some(seconds.ok_or_else(wrong)?);
        }
        if let Some(text) = get(label::PORT_NAMES) {
            let wrong = || InvalidOption::PortNames(text.to_owned());
            let ports: Option<Vec<_>> = text.split(',').map(port).collect();
            options.ports = ports.ok_or_else(wrong)?;
            options.ports.sort();
            options.ports.dedup();
        }
        Ok(options)
    }
}

/// `http=80`, `dns=53/udp`.
fn port(text: &str) -> Option<PortName> {
    let (name, port) = text.trim().split_once('=')?;
    let (port, protocol) = match port.split_once('/') {
        Some((port, protocol)) => (port, protocol.parse().ok()?),
        None => (port, Protocol::Tcp),
    };
    let name = name.to_ascii_lowercase();
    // RFC 6335 section 5.1
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let valid = (1..=15).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with('-')
        && !name.ends_with('-');
    let port = digits(port).and_then(|port| u16::try_from(port).ok());
    let port = port.filter(|port| valid && *port > 0)?;
    Some(PortName {
        name: name.into(),
        protocol,
        port,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Options;

    fn read(label: &str, text: &str) -> Result<DnsOptions, InvalidOption> {
        Options::of(&BTreeMap::from([(label.to_owned(), text.to_owned())])).map(|o| o.dns)
    }

    #[test]
    fn times_to_live_are_whole_seconds() {
        assert_eq!(read(label::DNS_TTL, "5s").unwrap().ttl, Some(5));
        assert_eq!(read(label::DNS_TTL, "0").unwrap().ttl, Some(0));
        assert_eq!(read(label::DNS_TTL, "1h").unwrap().ttl, Some(3600));
        for bad in ["", "5", "-1s", "500ms", "25h"] {
            assert!(read(label::DNS_TTL, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn some_addresses_are_not_to_be_remembered() {
        let one = read(label::DNS_ANSWERS, "1").unwrap();
        assert_eq!((one.answers, one.ttl), (1, Some(0)));
        let all = read(label::DNS_ANSWERS, "0").unwrap();
        assert_eq!((all.answers, all.ttl), (0, None));
        let labels = [(label::DNS_ANSWERS, "2"), (label::DNS_TTL, "3s")];
        let labels = labels.map(|(label, text)| (label.to_owned(), text.to_owned()));
        let both = Options::of(&labels.into()).unwrap().dns;
        assert_eq!((both.answers, both.ttl), (2, Some(3)));
        for bad in ["", "-1", "65536", "one"] {
            assert!(read(label::DNS_ANSWERS, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_have_names() {
        let of = |text: &str| {
            let ports = read(label::PORT_NAMES, text).unwrap().ports;
            let text = ports
                .iter()
                .map(|p| format!("{}={}/{}", p.name, p.port, p.protocol));
            text.collect::<Vec<_>>().join(",")
        };
        assert_eq!(of("Http=80"), "http=80/tcp");
        assert_eq!(
            of("http=80, dns=53/udp,http=80/tcp"),
            "dns=53/udp,http=80/tcp"
        );
        for bad in [
            "",
            "http",
            "=80",
            "http=0",
            "http=65536",
            "-a=1",
            "a_b=1",
            "a=1/icmp",
            "a=1,",
        ] {
            assert!(read(label::PORT_NAMES, bad).is_err(), "{bad}");
        }
    }
}
