//! What other servers answered, for as long as they allow: a small cache, so that
//! a name that everybody asks for costs one question.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::ResponseCode,
    rr::{DNSClass, RecordType},
};

use crate::wire::{Manner, Request, Transport};

/// How many answers are kept.
const MOST: usize = 1024;
/// Larger ones are not.
const LARGEST: usize = 2048;
/// How long they are kept at most, whatever their TTL.
const LONGEST: Duration = Duration::from_secs(300);
/// Octets of a message's header (RFC 1035 §4.1.1).
const HEADER: usize = 12;

/// What an answer is for: the same question, asked the same way of the same servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Labels in lower case.
    name: Box<[u8]>,
    kind: RecordType,
    class: DNSClass,
    manner: Manner,
    tcp: bool,
    servers: Box<[IpAddr]>,
}

impl Key {
    /// `None` for questions whose answers are for one client only.
    pub(crate) fn new(request: &Request, transport: Transport, servers: &[IpAddr]) -> Option<Self> {
        let manner = request.manner()?;
        let query = request.query();
        let mut name = Vec::with_capacity(query.name().len());
        for label in query.name().iter() {
            name.push(u8::try_from(label.len()).ok()?);
            name.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        Some(Self {
            name: name.into(),
            kind: query.query_type(),
            class: query.query_class(),
            manner,
            tcp: transport == Transport::Tcp,
            servers: servers.into(),
        })
    }
}

struct Kept {
    reply: Box<[u8]>,
    since: Instant,
    ttl: Duration,
}

/// Answers by their questions.
#[derive(Default)]
pub(crate) struct Cache(HashMap<Key, Kept>);

impl Cache {
    /// The answer to this question, which came as `packet`, with what is left of its TTLs.
    pub(crate) fn get(&self, key: &Key, packet: &[u8], now: Instant) -> Option<Vec<u8>> {
        let kept = self.0.get(key)?;
        let age = now.saturating_duration_since(kept.since);
        if age >= kept.ttl {
            return None;
        }
        let mut reply = kept.reply.to_vec();
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for ttl in ttls(&reply)? {
            let octets = reply.get_mut(ttl..ttl + 4)?.first_chunk_mut::<4>()?;
            *octets = u32::from_be_bytes(*octets)
                .saturating_sub(age)
                .to_be_bytes();
        }
        // the id, and the case of the name as it was asked
        reply.get_mut(..2)?.copy_from_slice(packet.get(..2)?);
        let end = after_name(packet, HEADER)?;
        reply
            .get_mut(HEADER..end)?
            .copy_from_slice(packet.get(HEADER..end)?);
        // we do not know it by ourselves
        *reply.get_mut(2)? &= !0x04;
        Some(reply)
    }

    /// Keeps an answer, if it may be kept.
    pub(crate) fn put(&mut self, key: Key, code: ResponseCode, reply: &[u8], now: Instant) {
        let good = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        let cut = reply.get(2).is_none_or(|flags| flags & 0x02 != 0);
        if !good || cut || reply.len() > LARGEST {
            return;
        }
        let Some(ttl) = lifetime(reply, code).filter(|ttl| !ttl.is_zero()) else {
            return;
        };
        if self.0.len() >= MOST {
            self.make_room(now);
        }
        let kept = Kept {
            reply: reply.into(),
            since: now,
            ttl: ttl.min(LONGEST),
        };
        self.0.insert(key, kept);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Forgets what is too old, or else about half of all.
    fn make_room(&mut self, now: Instant) {
        let old = |kept: &Kept| now.saturating_duration_since(kept.since) >= kept.ttl;
        self.0.retain(|_, kept| !old(kept));
        if self.0.len() >= MOST {
            let mut keep = false;
            self.0.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
    }
}

/// How long an answer may be kept: that of its shortest-lived record; of one that says
/// "no" what its SOA says (RFC 2308 §5), without which it may not be kept.
fn lifetime(reply: &[u8], code: ResponseCode) -> Option<Duration> {
    let records = records(reply)?;
    let answers = records.iter().filter(|record| record.section == 0);
    let shortest = answers.map(|record| record.ttl).min();
    let seconds = match (shortest, code) {
        (Some(ttl), ResponseCode::NoError) => ttl,
        (shortest, _) => {
            let soa = records
                .iter()
                .find(|record| record.section == 1 && record.kind == 6)?;
            let minimum = reply.get(soa.end - 4..soa.end)?.first_chunk::<4>()?;
            let no = soa.ttl.min(u32::from_be_bytes(*minimum));
            // a CNAME before it
            shortest.map_or(no, |ttl| ttl.min(no))
        }
    };
    // one above 2^31 is none (RFC 2181 §8)
    let seconds = if seconds > i32::MAX.unsigned_abs() {
        0
    } else {
        seconds
    };
    Some(Duration::from_secs(seconds.into()))
}

/// A record of a message.
struct Seen {
    /// 0: answer, 1: authority, 2: additional.
    section: usize,
    kind: u16,
    /// Where its TTL is.
    ttl_at: usize,
    ttl: u32,
    /// Where it ends.
    end: usize,
}

/// Where the TTLs of a message are; OPT has other things in their place (RFC 6891 §6.1.3).
fn ttls(message: &[u8]) -> Option<Vec<usize>> {
    let records = records(message)?.into_iter();
    let with_ttl = records.filter(|record| record.kind != 41);
    Some(with_ttl.map(|record| record.ttl_at).collect())
}

/// All records of a message with one question; `None` if it is damaged.
fn records(message: &[u8]) -> Option<Vec<Seen>> {
    let word = |at: usize| Some(u16::from_be_bytes(*message.get(at..at + 2)?.first_chunk()?));
    if word(4)? != 1 {
        return None;
    }
    let mut at = after_name(message, HEADER)? + 4;
    let mut records = Vec::new();
    for section in 0..3 {
        for _ in 0..word(6 + 2 * section)? {
            let fixed = after_name(message, at)?;
            let ttl_at = fixed + 4;
            let ttl = u32::from_be_bytes(*message.get(ttl_at..ttl_at + 4)?.first_chunk()?);
            let end = fixed + 10 + usize::from(word(fixed + 8)?);
            message.get(..end)?;
            records.push(Seen {
                section,
                kind: word(fixed)?,
                ttl_at,
                ttl,
                end,
            });
            at = end;
        }
    }
    Some(records)
}

/// Where a name ends that begins here (RFC 1035 §4.1.4).
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xC0 == 0xC0 => return Some(at + 2),
            length if length & 0xC0 == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::{Message, MessageType, Query},
        rr::{
            Name, RData, Record,
            rdata::{A, SOA},
        },
    };
    use proptest::prelude::*;

    use super::*;

    fn question(name: &str) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message
    }

    fn answer(question: &Message, ttls: &[u32]) -> Vec<u8> {
        let mut reply = question.clone();
        reply.metadata.message_type = MessageType::Response;
        for (n, ttl) in (1..).zip(ttls) {
            let data = RData::A(A::new(192, 0, 2, n));
            reply.add_answer(Record::from_rdata(
                question.queries[0].name().clone(),
                *ttl,
                data,
            ));
        }
        reply.to_vec().unwrap()
    }

    fn key(message: &Message) -> (Key, Vec<u8>) {
        let packet = message.to_vec().unwrap();
        let request = Request::parse(&packet).unwrap();
        let servers = [IpAddr::from([192, 0, 2, 53])];
        (
            Key::new(&request, Transport::Udp, &servers).unwrap(),
            packet,
        )
    }

    fn after(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    #[test]
    fn an_answer_is_kept_as_long_as_its_shortest_record() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let (first, again) = (question("Example.COM."), question("eXample.com."));
        let ((key_of, _), (same, packet)) = (key(&first), key(&again));
        assert_eq!(key_of, same, "case does not matter");
        cache.put(
            key_of,
            ResponseCode::NoError,
            &answer(&first, &[60, 30]),
            now,
        );
        let reply = cache.get(&same, &packet, after(now, 10)).unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(reply.id, again.id);
        assert_eq!(reply.queries[0].name().to_string(), "eXample.com.");
        let ttls: Vec<_> = reply.answers.iter().map(|record| record.ttl).collect();
        assert_eq!(ttls, [50, 20]);
        assert!(cache.get(&same, &packet, after(now, 30)).is_none());
    }

    #[test]
    fn no_is_kept_as_its_soa_says_and_not_without() {
        let now = Instant::now();
        for (ttl, minimum, kept) in [(60, 20, 20), (10, 900, 10)] {
            let mut cache = Cache::default();
            let asked = question("nosuch.example.");
            let (key, packet) = key(&asked);
            let mut reply = Message::from_vec(&answer(&asked, &[])).unwrap();
            cache.put(
                key.clone(),
                ResponseCode::NXDomain,
                &reply.to_vec().unwrap(),
                now,
            );
            assert!(cache.get(&key, &packet, now).is_none(), "without a SOA");
            let root = Name::root;
            let soa = RData::SOA(SOA::new(root(), root(), 1, 2, 3, 4, minimum));
            reply.add_authority(Record::from_rdata(root(), ttl, soa));
            cache.put(
                key.clone(),
                ResponseCode::NXDomain,
                &reply.to_vec().unwrap(),
                now,
            );
            assert!(cache.get(&key, &packet, after(now, kept - 1)).is_some());
            assert!(cache.get(&key, &packet, after(now, kept)).is_none());
        }
    }

    #[test]
    fn failures_cut_answers_and_zeros_are_not_kept() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let asked = question("example.com.");
        let (key, packet) = key(&asked);
        let good = answer(&asked, &[60]);
        cache.put(key.clone(), ResponseCode::ServFail, &good, now);
        let mut cut = good.clone();
        cut[2] |= 2;
        cache.put(key.clone(), ResponseCode::NoError, &cut, now);
        for ttl in [0, u32::MAX] {
            cache.put(
                key.clone(),
                ResponseCode::NoError,
                &answer(&asked, &[ttl]),
                now,
            );
        }
        assert!(cache.get(&key, &packet, now).is_none());
    }

    #[test]
    fn there_are_never_too_many() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for n in 0..3 * MOST {
            let asked = question(&format!("n{n}.example."));
            let (key, packet) = key(&asked);
            cache.put(
                key.clone(),
                ResponseCode::NoError,
                &answer(&asked, &[60]),
                now,
            );
            assert!(cache.get(&key, &packet, now).is_some());
            assert!(cache.0.len() <= MOST);
        }
    }

    proptest! {
        #[test]
        fn damaged_answers_are_survived(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            end in any::<prop::sample::Index>(),
        ) {
            let asked = question("example.com.");
            let mut reply = answer(&asked, &[60, 30]);
            for (at, value) in damage {
                let at = at.index(reply.len());
                reply[at] = value;
            }
            reply.truncate(end.index(reply.len()) + 1);
            let (mut cache, now) = (Cache::default(), Instant::now());
            let (key, packet) = key(&asked);
            cache.put(key.clone(), ResponseCode::NoError, &reply, now);
            let _ = cache.get(&key, &packet, now);
        }
    }
}
