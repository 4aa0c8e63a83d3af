//! What the guest measured: lines `figure MEASURE SIDE VALUE`.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The values of each measure's sides, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<(String, String), Vec<f64>>);

impl Figures {
    /// The values of one side; none where it was not measured.
    pub(crate) fn of(&self, measure: &str, side: &str) -> &[f64] {
        let key = (measure.to_owned(), side.to_owned());
        self.0.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Adds what a line says; whether it was one of ours.
    fn read(&mut self, line: &str) -> bool {
        let words: Vec<_> = line.split_whitespace().collect();
        let ["figure", measure, side, value] = words[..] else {
            return false;
        };
        let Ok(value) = value.parse() else {
            return false;
        };
        let key = (measure.to_owned(), side.to_owned());
        self.0.entry(key).or_default().push(value);
        true
    }
}

/// The middle value; `None` of none.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// Takes a step's output: figures are kept, everything else goes to standard error.
#[derive(Clone, Default)]
pub(crate) struct Reader {
    figures: Arc<Mutex<Figures>>,
    line: Vec<u8>,
}

impl Reader {
    /// What was read until now, by this one and its clones.
    pub(crate) fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            let ours = self.figures().read(&line);
            if !ours {
                eprintln!("{line}");
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_figures_however_they_are_cut() {
        let reader = Reader::default();
        let mut writer = reader.clone();
        writer.write_all(b"figure vip mesh 2\nfig").unwrap();
        writer.write_all(b"ure vip mesh 4.5\nfigure vip").unwrap();
        assert_eq!(reader.figures().of("vip", "mesh"), [2.0, 4.5]);
        assert!(reader.figures().of("vip", "direct").is_empty());
    }

    #[test]
    fn other_lines_are_no_figures() {
        let mut figures = Figures::default();
        for line in ["", "figure", "figure a b", "figure a b c", "figure a b 1 2"] {
            assert!(!figures.read(line), "{line}");
        }
    }

    #[test]
    fn the_median_does_not_see_one_bad_value() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[5.0, 0.1, 4.0]), Some(4.0));
        assert_eq!(median(&[5.0, 4.0]), Some(4.5));
    }
}
