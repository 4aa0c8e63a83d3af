//! What is being done: a spinner on a terminal, a line a step in a pipe.

use std::{
    io::{IsTerminal as _, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Something that takes a while.
pub(crate) struct Step {
    what: String,
    bar: Option<ProgressBar>,
    quiet: bool,
    since: Instant,
}

impl Step {
    /// Says that it begins.
    pub(crate) fn start(what: impl Into<String>) -> Self {
        Self::new(what.into(), false)
    }

    /// Something too short to be kept on the screen, and nothing to say in a
    /// pipe, where it would stand between a command's own lines.
    pub(crate) fn passing(what: impl Into<String>) -> Self {
        Self::new(what.into(), true)
    }

    fn new(what: String, quiet: bool) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{spinner} lab: {prefix} {elapsed} {wide_msg:.dim}");
            let bar = ProgressBar::new_spinner();
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_prefix(what.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() && !quiet {
            eprintln!("lab: {what}");
        }
        Self {
            what,
            bar,
            quiet,
            since: Instant::now(),
        }
    }

    /// What of it is being done now.
    pub(crate) fn detail(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None if self.quiet => {}
            None => eprintln!("lab:   {what}"),
        }
    }

    /// Says how long it took.
    pub(crate) fn done(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if !self.quiet {
            eprintln!("lab: {}: {}", self.what, seconds(self.since.elapsed()));
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A time for people: `7 s`, `2 min 05 s`.
pub(crate) fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match seconds / 60 {
        0 => format!("{seconds} s"),
        minutes => format!("{minutes} min {:02} s", seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!(seconds(Duration::from_millis(1600)), "2 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }
}
