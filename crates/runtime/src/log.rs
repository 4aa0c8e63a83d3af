//! A task's log: a JSON line an output line, in the form of docker's json-file
//! driver. The file before the last rotation has `.1` at its end.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A log is rotated at this many octets, so that a task has twice that at most.
const LARGEST: u64 = 10 << 20;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line that a task wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// The text with its line feed.
    pub log: String,
    /// Where it came from.
    pub stream: LogStream,
    /// When it was read.
    pub time: Timestamp,
}

fn rotated(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// All lines of a log, oldest first; none where there is no log.
///
/// # Errors
/// The file cannot be read.
pub fn read_log(path: &Path) -> io::Result<Vec<LogLine>> {
    let mut lines = Vec::new();
    for path in [rotated(path), path.to_owned()] {
        match File::open(&path) {
            Ok(file) => {
                for line in BufReader::new(file).lines() {
                    // a line that was cut off by a crash is left out
                    lines.extend(serde_json::from_str::<LogLine>(&line?));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(lines)
}

/// Deletes a log.
pub(crate) fn delete(path: &Path) -> io::Result<()> {
    for path in [rotated(path), path.to_owned()] {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The writing end.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Log {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().append(true).create(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
        })
    }

    pub(crate) fn write(&mut self, stream: LogStream, text: &[u8]) -> io::Result<()> {
        let log = String::from_utf8_lossy(text).into_owned();
        let mut line = serde_json::to_vec(&LogLine {
            log,
            stream,
            time: Timestamp::now(),
        })?;
        line.push(b'\n');
        if self.size + line.len() as u64 > LARGEST {
            std::fs::rename(&self.path, rotated(&self.path))?;
            *self = Self::open(&self.path)?;
        }
        self.file.write_all(&line)?;
        self.size += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_old_lines_rotate_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        assert!(read_log(&path).unwrap().is_empty());
        let mut log = Log::open(&path).unwrap();
        let long = vec![b'x'; 1 << 20];
        for _ in 0..25 {
            log.write(LogStream::Stdout, &long).unwrap();
        }
        log.write(LogStream::Stderr, b"last\n").unwrap();
        let lines = read_log(&path).unwrap();
        assert!((10..25).contains(&lines.len()), "{}", lines.len());
        assert_eq!(lines.last().unwrap().log, "last\n");
        assert_eq!(lines.last().unwrap().stream, LogStream::Stderr);
        delete(&path).unwrap();
        assert!(read_log(&path).unwrap().is_empty());
    }
}
