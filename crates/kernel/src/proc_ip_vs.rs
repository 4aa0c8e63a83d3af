//! `/proc/net/ip_vs`, compared with services while it is read: one file for all
//! services with their destinations, where netlink takes a question a service
//! (`ip_vs_info_seq_show` in `net/netfilter/ipvs/ip_vs_ctl.c`).
//!
//! It does not say the family of a service by firewall mark (its destinations
//! do), nor a scheduler's own flags, nor thresholds. And it is not complete:
//! between one page and the next the kernel counts services of all namespaces
//! (`ip_vs_info_seq_next`), but finds its place again by this one's only
//! (`ip_vs_info_array`), so that it passes over as many as there were others'.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use model::Mark;
use netlink_packet_ipvs::Flags;
use plan::netns::{Family, Netns, Scheduling, VirtualService};

/// How a line of a destination begins; all others of a table are services.
const DESTINATION: &[u8] = b"  -> ";
/// Lines of the head.
const HEAD: usize = 3;

/// What the text says of the services that are believed to be there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It tells of all of them, and of no other ones by firewall mark.
    Same,
    /// It tells of one that is another, or that is not as believed.
    Differs,
    /// It is right as far as it goes, but does not tell of these.
    Lacks(BTreeSet<(Family, Mark)>),
}

/// Compares. `hz` is the kernel's, which times are told in: learned where nothing
/// differs, and kept by the caller.
pub(crate) fn compare(text: &[u8], believed: &Netns, hz: &mut Option<u32>) -> Verdict {
    let mut learned = *hz;
    let Some(mut found) = right(text, believed, &mut learned) else {
        return Verdict::Differs;
    };
    *hz = learned;
    found.sort_unstable();
    let lacks = |key: &&(Family, Mark)| found.binary_search(key).is_err();
    let lacking: BTreeSet<_> = believed.services.keys().filter(lacks).copied().collect();
    if lacking.is_empty() {
        Verdict::Same
    } else {
        Verdict::Lacks(lacking)
    }
}

/// The services that the text tells of, if all of them are as believed.
fn right(text: &[u8], believed: &Netns, hz: &mut Option<u32>) -> Option<Vec<(Family, Mark)>> {
    let mut lines = text.split(|byte| *byte == b'\n').skip(HEAD).peekable();
    let mut found = Vec::with_capacity(believed.services.len());
    while let Some(line) = lines.next() {
        let mut destinations = lines.clone();
        while lines
            .next_if(|next| next.starts_with(DESTINATION))
            .is_some()
        {}
        // others are by address, or the end of the text
        let Some(rest) = line.strip_prefix(b"FWM ") else {
            continue;
        };
        let seen = Seen::read(rest)?;
        // a number that is not one of ours
        let Some(mark) = seen.mark else { continue };
        let first = destinations
            .peek()
            .and_then(|next| next.strip_prefix(DESTINATION));
        let families: &[Family] = match first.and_then(<[u8]>::first) {
            Some(b'[') => &[Family::V6],
            Some(_) => &[Family::V4],
            None => &[Family::V4, Family::V6],
        };
        let destinations = destinations.map_while(|next| next.strip_prefix(DESTINATION));
        let alike = families.iter().find(|family| {
            let service = believed.services.get(&(**family, mark));
            service.is_some_and(|service| {
                seen.is(**family, &service.scheduling, hz)
                    && all_there(destinations.clone(), service)
            })
        });
        found.push((*alike?, mark));
    }
    Some(found)
}

/// What a service's line says.
struct Seen<'a> {
    /// `None`: a number that is not one of ours.
    mark: Option<Mark>,
    scheduler: &'a [u8],
    one_packet: bool,
    /// Time-out in ticks, and the netmask with its octets turned as an IPv4
    /// address's are.
    persistent: Option<(u32, u32)>,
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty())
}

fn number(word: &[u8], radix: u32) -> Option<u32> {
    u32::from_str_radix(str::from_utf8(word).ok()?, radix).ok()
}

impl<'a> Seen<'a> {
    /// Of `FWM  00000102 wrr ops persistent 15000 FFFFFF00` what follows the first word.
    fn read(line: &'a [u8]) -> Option<Self> {
        let mut words = words(line);
        let mark = Mark::new(number(words.next()?, 16)?);
        let scheduler = words.next()?;
        let mut next = words.next();
        let one_packet = next == Some(b"ops");
        if one_packet {
            next = words.next();
        }
        let persistent = match next {
            Some(_) => Some((number(words.next()?, 10)?, number(words.next()?, 16)?)),
            None => None,
        };
        Some(Self {
            mark,
            scheduler,
            one_packet,
            persistent,
        })
    }

    fn is(&self, family: Family, shall: &Scheduling, hz: &mut Option<u32>) -> bool {
        self.scheduler == shall.scheduler.as_bytes()
            && self.one_packet == (shall.flags & Flags::ONE_PACKET != 0)
            && self.persistent.is_some() == (shall.flags & Flags::PERSISTENT != 0)
            && self.persistent.is_none_or(|(ticks, netmask)| {
                netmask == netmask_of(family, shall.netmask) && lasts(ticks, shall.timeout, hz)
            })
    }
}

/// As it is printed: by `ntohl`, which turns an IPv6 prefix length around too.
fn netmask_of(family: Family, prefix: u8) -> u32 {
    match family {
        Family::V4 => u32::MAX
            .checked_shl(32 - u32::from(prefix.min(32)))
            .unwrap_or(0),
        Family::V6 => u32::from_be(prefix.into()),
    }
}

fn lasts(ticks: u32, seconds: u32, hz: &mut Option<u32>) -> bool {
    if seconds == 0 {
        return ticks == 0;
    }
    let hz = *hz.get_or_insert(ticks / seconds);
    u64::from(ticks) == u64::from(seconds) * u64::from(hz)
}

/// Whether these lines are the service's destinations. Each is printed once, so
/// that their number tells whether one is missing.
fn all_there<'a>(lines: impl Iterator<Item = &'a [u8]>, service: &VirtualService) -> bool {
    let mut found = 0;
    for line in lines {
        let there = read_destination(line).and_then(|(at, weight)| {
            let destination = service.destinations.get(&at)?;
            (destination.weight == weight).then_some(())
        });
        if there.is_none() {
            return false;
        }
        found += 1;
    }
    found == service.destinations.len()
}

/// Address, port and weight of one that is reached by NAT:
/// `0A640002:0050      Masq    3      0          0`, or `[fd01:...:0002]:1F90 ...`
fn read_destination(line: &[u8]) -> Option<((IpAddr, u16), u32)> {
    let mut words = words(line);
    let at = words.next()?;
    let (address, port) = at.split_at_checked(at.len().checked_sub(5)?)?;
    let port = u16::try_from(number(port.strip_prefix(b":")?, 16)?).ok()?;
    let address = match address.strip_prefix(b"[") {
        Some(rest) => {
            let text = str::from_utf8(rest.strip_suffix(b"]")?).ok()?;
            text.parse::<Ipv6Addr>().ok()?.into()
        }
        None => Ipv4Addr::from(number(address, 16)?).into(),
    };
    if words.next()? != b"Masq" {
        return None;
    }
    let weight = number(words.next()?, 10)?;
    Some(((address, port), weight))
}

#[cfg(test)]
mod tests {
    use plan::netns::Destination;

    use super::*;

    /// Of Linux 6.1 with HZ 250, after `ipvsadm` had made it.
    const TEXT: &str = "\
IP Virtual Server version 1.2.1 (size=65536)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
UDP  [fd00:0000:0000:0000:0000:0000:0000:0005]:0035 mh \n\
\x20 -> [fd01:0000:0000:0000:0000:0000:0000:0002]:1F90      Masq    1      0          0         \n\
TCP  0A000001:0050 wlc  persistent 15000 FFFFFFFF
  -> 0A640002:0050      Masq    3      0          0         \n\
FWM  00000100 rr persistent 75000 40000000
  -> [fd01:0000:0000:0000:0000:0000:0000:0003]:1F90      Masq    1      0          0         \n\
\x20 -> [fd01:0000:0000:0000:0000:0000:0000:0002]:1F90      Masq    1      7          12        \n\
FWM  00000100 rr persistent 75000 FFFFFFFF
  -> 0A640004:0000      Masq    0      0          0         \n\
\x20 -> 0A640003:0050      Masq    65535  0          0         \n\
\x20 -> 0A640002:0050      Masq    3      0          0         \n\
FWM  00000101 sh ops \n\
FWM  00000102 wrr ops persistent 15000 FFFFFF00
";

    fn service(
        scheduler: &str,
        flags: u32,
        (timeout, netmask): (u32, u8),
        destinations: &[(&str, u16, u32)],
    ) -> VirtualService {
        let destination = |(address, port, weight): &(&str, u16, u32)| {
            let value = Destination {
                weight: *weight,
                upper_threshold: 0,
                lower_threshold: 0,
            };
            ((address.parse().unwrap(), *port), value)
        };
        VirtualService {
            scheduling: Scheduling {
                scheduler: scheduler.to_owned().into(),
                flags,
                timeout,
                netmask,
            },
            destinations: destinations.iter().map(destination).collect(),
        }
    }

    fn believed() -> Netns {
        let mark = |number| Mark::new(number).unwrap();
        let four = [
            ("10.100.0.2", 80, 3),
            ("10.100.0.3", 80, 65535),
            ("10.100.0.4", 0, 0),
        ];
        let six = [("fd01::2", 8080, 1), ("fd01::3", 8080, 1)];
        let services = [
            ((Family::V4, mark(256)), service("rr", 1, (300, 32), &four)),
            ((Family::V6, mark(256)), service("rr", 1, (300, 64), &six)),
            ((Family::V6, mark(257)), service("sh", 4 | 8, (0, 128), &[])),
            (
                (Family::V4, mark(258)),
                service("wrr", 1 | 4, (60, 24), &[]),
            ),
        ];
        Netns {
            services: services.into_iter().collect(),
            ..Netns::default()
        }
    }

    #[test]
    fn what_is_believed_is_found_and_the_kernels_tick_learned() {
        let mut hz = None;
        let same = |text: &str, believed: &Netns, hz: &mut Option<u32>| {
            compare(text.as_bytes(), believed, hz) == Verdict::Same
        };
        assert!(same(TEXT, &believed(), &mut hz));
        assert_eq!(hz, Some(250));
        assert!(same(TEXT, &believed(), &mut hz));
        // a table without services by mark, and one of nothing at all
        let head: String = TEXT.split_inclusive('\n').take(7).collect();
        assert!(same(&head, &Netns::default(), &mut hz));
        assert!(same("", &Netns::default(), &mut hz));
        assert!(!same("", &believed(), &mut hz));
        assert!(!same(TEXT, &Netns::default(), &mut hz));
    }

    #[test]
    fn every_change_of_the_text_is_seen() {
        for (from, to) in [
            ("FWM  00000101", "FWM  00000103"),
            (" sh ops ", " sh "),
            (" wrr ops", " rr ops"),
            ("wrr ops persistent 15000 FFFFFF00", "wrr ops "),
            ("persistent 15000 FFFFFF00", "persistent 15250 FFFFFF00"),
            ("persistent 15000 FFFFFF00", "persistent 15001 FFFFFF00"),
            ("15000 FFFFFF00", "15000 FFFFFFFF"),
            ("40000000", "80000000"),
            ("Masq    65535", "Masq    65534"),
            ("Masq    65535", "Route   65535"),
            ("0A640003:0050", "0A640003:0051"),
            ("0A640003:0050", "0A640005:0050"),
            (
                "  -> 0A640004:0000      Masq    0      0          0         \n",
                "",
            ),
            ("0003]:1F90", "0004]:1F90"),
            (
                "FWM  00000101 sh ops \n",
                "FWM  00000101 sh ops \n  -> 0A640004:0000      Masq    0      0          0         \n",
            ),
            ("FWM  00000102", "FWM  00000105 rr \nFWM  00000102"),
        ] {
            assert!(TEXT.contains(from), "{from}");
            let changed = TEXT.replace(from, to);
            let mut hz = Some(250);
            let verdict = compare(changed.as_bytes(), &believed(), &mut hz);
            assert_eq!(verdict, Verdict::Differs, "{to}");
            assert_eq!(hz, Some(250));
        }
    }

    #[test]
    fn services_by_address_do_not_count() {
        let other = TEXT.replace("0A000001:0050 wlc", "0A000001:0051 lc");
        let verdict = compare(other.as_bytes(), &believed(), &mut None);
        assert_eq!(verdict, Verdict::Same);
    }

    #[test]
    fn services_that_are_passed_over_are_named() {
        let less = TEXT.replace("FWM  00000101 sh ops \n", "");
        let verdict = compare(less.as_bytes(), &believed(), &mut None);
        let missing = (Family::V6, Mark::new(257).unwrap());
        assert_eq!(verdict, Verdict::Lacks(BTreeSet::from([missing])));
        let Verdict::Lacks(all) = compare(b"", &believed(), &mut None) else {
            panic!("nothing was told");
        };
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn nonsense_is_a_difference_and_does_no_harm() {
        for length in 0..TEXT.len() - 1 {
            let _ = compare(&TEXT.as_bytes()[..length], &believed(), &mut None);
        }
        for at in 0..TEXT.len() {
            let mut damaged = TEXT.as_bytes().to_vec();
            damaged[at] ^= 0x55;
            let _ = compare(&damaged, &believed(), &mut Some(250));
        }
    }
}
