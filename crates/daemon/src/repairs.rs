//! What others changed in the kernel, told as events.

use std::collections::BTreeMap;

use kernel::Error;
use model::{Event, EventKind};
use plan::netns::{Op, Place, Places};

use crate::events::Events;

/// How many things are named; the others are counted.
const NAMED: usize = 4;

/// What a repair begins with.
pub(crate) struct Looked {
    /// As it was left.
    pub(crate) believed: Places,
    /// Which places were read anew; `None`: all.
    pub(crate) doubted: Option<Vec<Place>>,
}

impl Looked {
    /// An event for each place that was not as it was left; `named` is what people call
    /// it. Writes that failed are by their index in `ops`.
    pub(crate) fn repairs(
        &self,
        events: &Events,
        observed: &Places,
        ops: &[(Place, Op)],
        failed: &[(usize, Error)],
        named: impl Fn(&Place) -> String,
    ) -> Vec<Event> {
        let doubted = |place: &Place| match &self.doubted {
            Some(doubted) => doubted.contains(place),
            None => true,
        };
        let both = self.believed.iter().filter(|(place, _)| doubted(place));
        let (mut was, mut is) = (Places::new(), Places::new());
        for (place, believed) in both {
            is.extend(observed.get(place).map(|now| (place.clone(), now.clone())));
            was.insert(place.clone(), believed.clone());
        }
        let mut repaired: BTreeMap<Place, Vec<Op>> = BTreeMap::new();
        for (place, op) in plan::plan_writes(&is, &was) {
            repaired.entry(place).or_default().push(op);
        }
        let error = |place: &Place| {
            let mut failed = failed.iter();
            failed.find_map(|(index, error)| {
                let (at, _) = ops.get(*index)?;
                (at == place).then(|| crate::chain(error))
            })
        };
        let event = |(place, ops): (Place, Vec<Op>)| {
            let what = ops.iter().take(NAMED);
            let mut what: Vec<_> = what
                .map(|op| format!("{} was {}", op.subject(), op.lack()))
                .collect();
            if ops.len() > NAMED {
                what.push(format!("and {} more", ops.len() - NAMED));
            }
            events
                .here(EventKind::Datapath, "repair")
                .with("place", named(&place))
                .with("writes", ops.len())
                .with("reason", what.join("; "))
                .with("error", error(&place).unwrap_or_default())
        };
        repaired.into_iter().map(event).collect()
    }
}

#[cfg(test)]
mod tests {
    use model::{Mark, NodeId};
    use plan::netns::{Entry, Family, Netns, Set, SetKind};

    use super::*;

    fn with_entries(ports: &[u16]) -> Netns {
        let entries = ports.iter().map(|port| (Entry::Port(*port), None::<Mark>));
        let set = Set {
            kind: SetKind::BitmapPort,
            entries: entries.collect(),
        };
        let other = Set {
            kind: SetKind::HashNet(Family::V4),
            entries: Default::default(),
        };
        Netns {
            sets: [("ivm-tcp".to_owned(), set), ("other".to_owned(), other)]
                .into_iter()
                .collect(),
            ..Netns::default()
        }
    }

    #[test]
    fn a_repair_says_where_and_what_and_no_more_than_a_few_things() {
        let events = Events::new(NodeId::from_random([1; 16]));
        let ports: Vec<u16> = (1..=6).collect();
        let looked = Looked {
            believed: [
                (Place::Host, with_entries(&ports)),
                (Place::Router, with_entries(&[])),
            ]
            .into_iter()
            .collect(),
            doubted: Some(vec![Place::Host]),
        };
        let observed: Places = [
            (Place::Host, with_entries(&[1, 9])),
            (Place::Router, Netns::default()),
        ]
        .into_iter()
        .collect();
        let told = looked.repairs(&events, &observed, &[], &[], |place| format!("{place:?}"));
        assert_eq!(told.len(), 1, "the router was not looked at: {told:?}");
        let attributes = &told[0].attributes;
        assert_eq!(
            (told[0].action, attributes["place"].as_str()),
            ("repair", "Host")
        );
        assert_eq!(attributes["writes"], "6");
        let reason = &attributes["reason"];
        assert!(
            reason.contains("entry 2 of set ivm-tcp was missing"),
            "{reason}"
        );
        assert!(reason.ends_with("and 2 more"), "{reason}");
        // what is as it was left is no repair
        let same = looked.believed.clone();
        assert!(
            looked
                .repairs(&events, &same, &[], &[], |_| String::new())
                .is_empty()
        );
    }
}
