//! What tasks wrote, as Docker's log driver has kept it.

use bollard::{container::LogOutput, query_parameters::LogsOptionsBuilder};
use futures::StreamExt as _;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::engine::{Engine, is_missing};
use crate::{LogLine, LogOptions, LogStream, RuntimeError};

/// A line as Docker sends it with timestamps; `None`: it has none.
fn line(output: &LogOutput) -> Option<LogLine> {
    let stream = match output {
        LogOutput::StdErr { .. } => LogStream::Stderr,
        _ => LogStream::Stdout,
    };
    let text = String::from_utf8_lossy(output.as_ref()).into_owned();
    let (time, text) = text.split_once(' ')?;
    Some(LogLine {
        log: text.to_owned(),
        stream,
        time: time.parse().ok()?,
    })
}

/// Reads a container's log into the channel, until it ends or nobody listens.
pub(crate) async fn read(
    engine: &Engine,
    name: &str,
    options: LogOptions,
    lines: &mpsc::Sender<Result<LogLine, RuntimeError>>,
) -> Result<(), RuntimeError> {
    let client = engine.client().await?;
    let since = options.since.unwrap_or(Timestamp::UNIX_EPOCH);
    let tail = options
        .tail
        .map_or_else(|| "all".to_owned(), |n| n.to_string());
    let asked = LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .timestamps(true)
        .follow(options.follow)
        .tail(&tail)
        // whole seconds; the rest is left out below
        .since(i32::try_from(since.as_second()).unwrap_or(i32::MAX))
        .build();
    let mut outputs = client.logs(name, Some(asked)).boxed();
    loop {
        let output = tokio::select! {
            output = outputs.next() => output,
            () = lines.closed() => return Ok(()),
        };
        let output = match output {
            None => return Ok(()),
            Some(Err(error)) if is_missing(&error) => return Ok(()),
            Some(Err(error)) => return Err(engine.failed("read the log of", name, &error)),
            Some(Ok(output)) => output,
        };
        let Some(line) = line(&output).filter(|line| line.time >= since) else {
            continue;
        };
        if lines.send(Ok(line)).await.is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_their_time_before_them() {
        let message = "2026-01-02T03:04:05.678901234Z hello  world\n".into();
        let read = line(&LogOutput::StdErr { message }).unwrap();
        assert_eq!(read.log, "hello  world\n");
        assert_eq!(read.stream, LogStream::Stderr);
        assert_eq!(read.time.subsec_nanosecond(), 678_901_234);
        let message = "nothing".into();
        assert_eq!(line(&LogOutput::StdOut { message }), None);
    }
}
