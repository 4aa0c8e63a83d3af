//! Two looks at counters make rates; some of them make a history.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use api::stats::{Stats, Traffic};

/// How many looks are kept for each row.
const HISTORY: usize = 60;

/// What passes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) connections: f64,
    pub(super) packets: f64,
    pub(super) bytes_in: f64,
    pub(super) bytes_out: f64,
}

impl Rates {
    fn between(before: &Traffic, after: &Traffic, seconds: f64) -> Self {
        // one that is less than before began anew
        let rate = |before: u64, after: u64| match after.checked_sub(before) {
            Some(more) if seconds > 0.0 => more as f64 / seconds,
            _ => 0.0,
        };
        let packets = |traffic: &Traffic| traffic.packets_in + traffic.packets_out;
        Self {
            connections: rate(before.connections, after.connections),
            packets: rate(packets(before), packets(after)),
            bytes_in: rate(before.bytes_in, after.bytes_in),
            bytes_out: rate(before.bytes_out, after.bytes_out),
        }
    }
}

/// A service or one of its tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    /// The service's name.
    pub(super) service: String,
    /// `None`: the service itself.
    pub(super) task: Option<String>,
    /// Tasks that run of those wanted; of a task its state.
    pub(super) state: String,
    /// Whether that is as it should be.
    pub(super) well: bool,
    pub(super) active: u64,
    pub(super) inactive: u64,
    pub(super) rates: Rates,
    /// Octets a second in both directions, the latest last.
    pub(super) history: VecDeque<u64>,
}

/// Looks at a mesh, of which the last few are remembered.
#[derive(Debug, Default)]
pub(super) struct Looks {
    rows: BTreeMap<String, (Traffic, Row)>,
}

impl Looks {
    /// Takes in what is seen so long after the look before.
    pub(super) fn take(&mut self, seen: &Stats, after: Duration) {
        let mut before = std::mem::take(&mut self.rows);
        for service in &seen.services {
            let mut all = Traffic::default();
            for task in &service.tasks {
                all += task.traffic;
            }
            let row = Row {
                service: service.name.clone(),
                state: format!("{}/{}", service.running, service.replicas),
                well: service.running >= service.replicas,
                ..Row::default()
            };
            self.add(&service.id, row, all, &mut before, after);
            for task in &service.tasks {
                let row = Row {
                    service: service.name.clone(),
                    task: Some(task.name.clone()),
                    state: task.state.clone(),
                    well: task.state == "running",
                    ..Row::default()
                };
                self.add(&task.id, row, task.traffic, &mut before, after);
            }
        }
    }

    fn add(
        &mut self,
        id: &str,
        row: Row,
        traffic: Traffic,
        before: &mut BTreeMap<String, (Traffic, Row)>,
        after: Duration,
    ) {
        let (rates, mut history) = match before.remove(id) {
            Some((before, row)) => {
                let rates = Rates::between(&before, &traffic, after.as_secs_f64());
                (rates, row.history)
            }
            None => Default::default(),
        };
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back((rates.bytes_in + rates.bytes_out) as u64);
        let row = Row {
            active: traffic.active,
            inactive: traffic.inactive,
            rates,
            history,
            ..row
        };
        self.rows.insert(id.to_owned(), (traffic, row));
    }

    /// All rows, in no order that matters.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values().map(|(_, row)| row)
    }
}

/// A history as a line of bars, the latest at its end, the highest one full.
pub(super) fn sparkline(history: &VecDeque<u64>, width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let highest = history.iter().copied().max().unwrap_or(0).max(1);
    let shown = history.iter().skip(history.len().saturating_sub(width));
    let bar = |value: &u64| {
        // rounded up: little is more than nothing
        let at = (value * 7).div_ceil(highest);
        BARS[usize::try_from(at).unwrap_or(7).min(7)]
    };
    shown.map(bar).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use api::stats::{ServiceStats, TaskStats};

    use super::*;

    /// `web` of so many tasks, of which each has seen so much.
    pub(in crate::top) fn seen(name: &str, tasks: &[Traffic]) -> ServiceStats {
        let task = |(slot, traffic): (usize, &Traffic)| TaskStats {
            id: format!("{name}-id-{slot}"),
            name: format!("{name}.{}", slot + 1),
            state: "running".to_owned(),
            traffic: *traffic,
        };
        ServiceStats {
            id: format!("{name}-id"),
            name: name.to_owned(),
            running: u32::try_from(tasks.len()).unwrap(),
            replicas: 2,
            tasks: tasks.iter().enumerate().map(task).collect(),
        }
    }

    pub(in crate::top) fn traffic(connections: u64) -> Traffic {
        Traffic {
            active: 3,
            inactive: 1,
            connections,
            packets_in: 10 * connections,
            packets_out: 10 * connections,
            bytes_in: 100 * connections,
            bytes_out: 1000 * connections,
        }
    }

    #[test]
    fn rates_are_differences_and_a_service_is_its_tasks() {
        let mut looks = Looks::default();
        let second = Duration::from_secs(2);
        let look = |one, other| Stats {
            services: vec![seen("web", &[traffic(one), traffic(other)])],
        };
        looks.take(&look(5, 7), second);
        assert!(looks.rows().all(|row| row.rates == Rates::default()));
        looks.take(&look(9, 7), second);
        let of = |looks: &Looks, task: Option<&str>| {
            let mut rows = looks.rows();
            rows.find(|row| row.task.as_deref() == task)
                .unwrap()
                .clone()
        };
        let service = of(&looks, None);
        assert_eq!((service.active, service.state.as_str()), (6, "2/2"));
        let expected = Rates {
            connections: 2.0,
            packets: 40.0,
            bytes_in: 200.0,
            bytes_out: 2000.0,
        };
        assert_eq!(service.rates, expected);
        assert_eq!(of(&looks, Some("web.1")).rates, expected);
        assert_eq!(of(&looks, Some("web.2")).rates, Rates::default());
        // a task that was made anew counts from nothing
        looks.take(&look(1, 8), second);
        assert_eq!(of(&looks, Some("web.1")).rates, Rates::default());
        assert_eq!(of(&looks, Some("web.1")).history, [0, 2200, 0]);
        looks.take(&Stats::default(), second);
        assert_eq!(looks.rows().count(), 0);
    }

    #[test]
    fn bars_are_as_high_as_values_and_the_latest_are_shown() {
        let history = VecDeque::from([9, 0, 1, 40, 80]);
        assert_eq!(sparkline(&history, 4), "▁▂▅█");
        assert_eq!(sparkline(&VecDeque::from([0, 0]), 4), "▁▁");
        assert_eq!(sparkline(&VecDeque::new(), 4), "");
    }
}
