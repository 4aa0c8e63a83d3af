//! A dump's answers without their counters, which are most of each answer and which
//! no plan has: two sets of ten for every service and every destination.

use netlink_packet_core::{DecodeError, NlaBuffer, NlasIterator, Parseable};

/// `struct genlmsghdr`
const HEADER: usize = 4;
/// `IPVS_SVC_ATTR_STATS` and `_STATS64`, `IPVS_DEST_ATTR_STATS` and `_STATS64`
const COUNTERS: [u16; 2] = [10, 12];

/// The attributes of the service or the destination that an answer is about.
pub(crate) fn uncounted<A>(body: &[u8]) -> Result<Vec<A>, DecodeError>
where
    A: for<'a> Parseable<NlaBuffer<&'a [u8]>>,
{
    let answer = NlasIterator::new(body.get(HEADER..).unwrap_or_default()).next();
    let answer = answer.ok_or_else(|| DecodeError::from("nothing in it".to_owned()))??;
    NlasIterator::new(answer.value())
        .filter(|nla| {
            let kind = nla.as_ref().map_or(0, |nla| nla.kind());
            !COUNTERS.contains(&kind)
        })
        .map(|nla| A::parse(&nla?))
        .collect()
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{DefaultNla, Emitable as _};
    use netlink_packet_ipvs::{
        AddressFamily, Destination, DestinationAttribute, IpvsAttribute, IpvsCmd, IpvsMessage,
        Service, ServiceAttribute, ServiceKey, StatsAttribute,
    };

    use super::*;

    fn answer(attribute: IpvsAttribute) -> Vec<u8> {
        let message = IpvsMessage::new(IpvsCmd::NewService, vec![attribute]);
        let mut octets = vec![0; HEADER + message.buffer_len()];
        message.emit(&mut octets[HEADER..]);
        octets
    }

    #[test]
    fn all_is_read_but_counters() {
        let family = AddressFamily::Ipv6;
        let service = Service {
            flags: 1,
            timeout: 300,
            prefix: 64,
            ..Service::new(ServiceKey::FwMark { family, mark: 7 }, "wlc")
        };
        let mut sent = service.attributes();
        sent.insert(
            1,
            ServiceAttribute::Stats64(vec![StatsAttribute::Connections(5)]),
        );
        let body = answer(IpvsAttribute::Service(sent));
        let read: Vec<ServiceAttribute> = uncounted(&body).unwrap();
        assert_eq!(read, service.attributes());

        let destination = Destination {
            weight: 3,
            upper_threshold: 9,
            ..Destination::new("fd00::2".parse().unwrap(), 80)
        };
        let mut sent = destination.attributes();
        sent.push(DestinationAttribute::Stats64(Vec::new()));
        sent.push(DestinationAttribute::ActiveConnections(4));
        let body = answer(IpvsAttribute::Destination(sent));
        let read: Vec<DestinationAttribute> = uncounted(&body).unwrap();
        let read = Destination::parse(&read, family).unwrap();
        let active_connections = 4;
        assert_eq!(
            read,
            Destination {
                active_connections,
                ..destination
            }
        );
    }

    #[test]
    fn nonsense_is_an_error_and_does_no_harm() {
        let wrong = DefaultNla::new(1, vec![1]);
        let body = answer(IpvsAttribute::Service(vec![ServiceAttribute::Other(wrong)]));
        for length in 0..=body.len() {
            assert!(
                uncounted::<ServiceAttribute>(&body[..length]).is_err(),
                "{length}"
            );
        }
    }
}
