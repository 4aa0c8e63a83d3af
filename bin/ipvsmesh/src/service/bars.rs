//! How far a service is, drawn on a terminal as docker draws it.

use serde_json::Value;

use crate::output::{self, cut, number, text};

/// With more tasks than that, only their number is shown; docker's limit.
const MOST: usize = 20;
/// Characters of a whole bar.
const WIDTH: usize = 50;
/// Characters of what stands in a task's way; docker's limit.
const WHY: usize = 75;
/// The way of a task; each step is a part of its bar.
const STEPS: [&str; 7] = [
    "new",
    "pending",
    "assigned",
    "preparing",
    "starting",
    "running",
    "complete",
];

/// Lines that are drawn over the ones before; nothing where nobody looks.
pub(super) struct Bars {
    shown: bool,
    drawn: Vec<String>,
}

impl Bars {
    pub(super) fn new(shown: bool) -> Self {
        Self {
            shown,
            drawn: Vec::new(),
        }
    }

    /// Draws how far the tasks are.
    pub(super) fn show(
        &mut self,
        done: usize,
        wanted: usize,
        tasks: &[Value],
    ) -> anyhow::Result<()> {
        let mut lines = vec![format!("overall progress: {done} out of {wanted} tasks")];
        if wanted <= MOST {
            lines.extend(slots(wanted, tasks));
        }
        // what is said below them stays
        let below = self.drawn.iter().filter(|line| line.contains("verify:"));
        lines.extend(below.filter(|_| done == wanted).cloned());
        self.draw(lines)
    }

    /// Says below them what is waited for.
    pub(super) fn verify(&mut self, update: bool) -> anyhow::Result<()> {
        let what = match update {
            true => "verify: Waiting for the update to complete...",
            false => "verify: Waiting to verify that tasks are stable...",
        };
        let mut lines = self.drawn.clone();
        lines.retain(|line| !line.starts_with("verify:"));
        lines.push(what.to_owned());
        self.draw(lines)
    }

    /// Says something that stays, below all.
    pub(super) fn say(&mut self, what: &str) -> anyhow::Result<()> {
        let mut lines = std::mem::take(&mut self.drawn);
        lines.retain(|line| !line.starts_with("verify:"));
        if self.shown {
            let up = up(lines.len());
            output::print_error(format!("{up}\r\x1b[J{}{what}\n", joined(&lines)))?;
        }
        Ok(())
    }

    /// Leaves them as they are.
    pub(super) fn end(&mut self) -> anyhow::Result<()> {
        self.drawn.clear();
        Ok(())
    }

    fn draw(&mut self, lines: Vec<String>) -> anyhow::Result<()> {
        if self.shown && lines != self.drawn {
            let up = up(self.drawn.len());
            output::print_error(format!("{up}\r\x1b[J{}", joined(&lines)))?;
        }
        self.drawn = lines;
        Ok(())
    }
}

fn up(lines: usize) -> String {
    match lines {
        0 => String::new(),
        lines => format!("\x1b[{lines}A"),
    }
}

fn joined(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A line for each slot, by the furthest of its tasks that shall run.
fn slots(wanted: usize, tasks: &[Value]) -> Vec<String> {
    let mut furthest: std::collections::BTreeMap<(u64, &str), (&str, &str)> = Default::default();
    for task in tasks {
        if text(task, "/DesiredState") != "running" && text(task, "/DesiredState") != "ready" {
            continue;
        }
        let key = match number(task, "/Slot") {
            0 => (0, text(task, "/NodeID")),
            slot => (slot, ""),
        };
        let (state, why) = (text(task, "/Status/State"), text(task, "/Status/Err"));
        let best = furthest.entry(key).or_insert((state, why));
        if step(state) > step(best.0) {
            *best = (state, why);
        }
    }
    let slots = furthest.into_values();
    let line = |(n, (state, why)): (usize, (&str, &str))| {
        if !why.is_empty() {
            let why = cut(&why.replace('\n', " "), WHY);
            return format!("{}/{wanted}: {why}", n + 1);
        }
        let bar = WIDTH * step(state).unwrap_or(0) / (STEPS.len() - 1);
        let arrow = if bar == 0 { "" } else { ">" };
        let bar = "=".repeat(bar.saturating_sub(1));
        format!(
            "{}/{wanted}: {state:<9} [{:<WIDTH$}]",
            n + 1,
            format!("{bar}{arrow}")
        )
    };
    slots.take(wanted).enumerate().map(line).collect()
}

fn step(state: &str) -> Option<usize> {
    let step = STEPS.iter().position(|step| *step == state)?;
    // one that ended well has come as far as one that runs
    Some((step + 1).min(STEPS.len() - 1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_stands_in_the_way_is_said_on_one_line() {
        let task = |why: String| json!({"Slot": 1, "DesiredState": "running", "Status": {"State": "preparing", "Err": why}});
        let said = |why: String| slots(1, &[task(why)]);
        assert_eq!(said("no\nDocker".to_owned()), ["1/1: no Docker"]);
        let (most, more) = ("é".repeat(75), "é".repeat(76));
        assert_eq!(said(most.clone()), [format!("1/1: {most}")]);
        assert_eq!(said(more), [format!("1/1: {}…", "é".repeat(74))]);
    }

    #[test]
    fn each_slot_has_a_bar_of_its_furthest_task() {
        let task = |slot: u32, state: &str, desired: &str| json!({"Slot": slot, "DesiredState": desired, "Status": {"State": state}});
        let tasks = [
            task(2, "preparing", "running"),
            task(1, "running", "running"),
            task(1, "starting", "running"),
            task(1, "failed", "shutdown"),
            task(3, "new", "ready"),
        ];
        let whole = format!("{}>", "=".repeat(49));
        let part = |n: usize| format!("{:<50}", format!("{}>", "=".repeat(n - 1)));
        assert_eq!(
            slots(3, &tasks),
            [
                format!("1/3: running   [{whole}]"),
                format!("2/3: preparing [{}]", part(33)),
                format!("3/3: new       [{}]", part(8)),
            ]
        );
    }
}
