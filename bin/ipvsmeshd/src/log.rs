//! Log lines on standard error: for a person at a terminal, for the journal, or as JSON.

use std::{fmt, io, os::unix::fs::MetadataExt as _};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Writer},
    },
    registry::LookupSpan,
};

use crate::arguments::LogFormat;

/// Logs from now on; `RUST_LOG` says what, "info" without.
pub(crate) fn begin(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()) && !no_color());
    match format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text if goes_to_journal() => log.event_format(Journal::default()).init(),
        LogFormat::Text => log.init(),
    }
}

/// <https://no-color.org>
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Whether standard error is the journal's, as systemd says (`JOURNAL_STREAM` in
/// systemd.exec(5)): an inherited variable alone says nothing.
fn goes_to_journal() -> bool {
    let Ok(said) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let own = std::fs::metadata("/proc/self/fd/2");
    own.is_ok_and(|own| said == format!("{}:{}", own.dev(), own.ino()))
}

/// The journal has the time and the priority by itself: the latter from a number before
/// the line (sd-daemon(3)), so that `journalctl --priority warning` works.
struct Journal(Format<Full, ()>);

impl Default for Journal {
    fn default() -> Self {
        Self(
            Format::default()
                .without_time()
                .with_level(false)
                .with_ansi(false),
        )
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str(priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// syslog(3)'s priorities.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_journal_gets_a_priority_and_neither_times_nor_colours() {
        let lines = Lines::default();
        let to = lines.clone();
        let log = tracing_subscriber::fmt()
            .with_writer(move || to.clone())
            .with_ansi(false)
            .event_format(Journal::default())
            .finish();
        tracing::subscriber::with_default(log, || {
            tracing::warn!(task = "vote.1", "it does not answer");
            tracing::info!("ready");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[0].starts_with("<4>ipvsmeshd::log::tests: it does not answer task=\"vote.1\""),
            "{text}"
        );
        assert!(
            lines[1].starts_with("<6>") && lines[1].ends_with(": ready"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
