//! The table: both sides of each measure, their ratio, and what it shall be.

use std::fmt;

use super::figures::{Figures, median};

/// What a ratio shall be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    AtLeast(f64),
    /// Of what is better the smaller it is.
    AtMost(f64),
    /// Not the ratio: all values of both sides shall be 0.
    Zero,
    /// Not the ratio: no value of the first side shall be more than this.
    OursAtMost(f64),
    /// Nothing: it is there to compare with.
    None,
}

impl Target {
    fn met(self, ratio: f64, this: &[f64], that: &[f64]) -> bool {
        // as many digits as are printed
        let printed = |value: f64| (value * 100.0).round();
        match self {
            Self::AtLeast(least) => printed(ratio) >= printed(least),
            Self::AtMost(most) => printed(ratio) <= printed(most),
            Self::Zero => this.iter().chain(that).all(|value| *value == 0.0),
            Self::OursAtMost(most) => this.iter().all(|value| *value <= most),
            Self::None => true,
        }
    }

    /// Whether it says something of the ratio.
    fn is_of_ratio(self) -> bool {
        matches!(self, Self::AtLeast(_) | Self::AtMost(_))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least:.2}"),
            Self::AtMost(most) => write!(f, "<= {most:.2}"),
            Self::Zero => write!(f, "0"),
            Self::OursAtMost(most) => write!(f, "ours <= {most}"),
            Self::None => Ok(()),
        }
    }
}

/// A line of the table.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    /// As the guest calls it.
    pub(crate) measure: String,
    pub(crate) target: Target,
}

/// A line of the table, from its parts in this order.
pub(crate) fn row(
    what: &'static str,
    unit: &'static str,
    measure: impl Into<String>,
    target: Target,
) -> Row {
    Row {
        what,
        unit,
        measure: measure.into(),
        target,
    }
}

/// Lines that compare the same two things.
pub(crate) struct Group {
    pub(crate) what: &'static str,
    /// The sides, as the guest calls them: the second is what the first is
    /// divided by.
    pub(crate) sides: [&'static str; 2],
    pub(crate) rows: Vec<Row>,
}

/// A table, and whether everything in it was measured.
pub(crate) fn table(groups: &[Group], figures: &Figures) -> (String, bool) {
    let mut whole = true;
    let mut text = format!(
        "{:<26} {:>10} {:>10}  {:<10} {:>5}  {:<12} target\n",
        "", "this", "that", "", "ratio", "turn by turn"
    );
    for group in groups {
        text.push_str(&format!("\n{}\n", group.what));
        for row in &group.rows {
            let line = row.line(group.sides, figures);
            whole &= line.is_some();
            let line = line.unwrap_or_else(|| format!("  {:<24} not measured", row.what));
            text.push_str(line.trim_end());
            text.push('\n');
        }
    }
    (text, whole)
}

impl Row {
    fn line(&self, sides: [&str; 2], figures: &Figures) -> Option<String> {
        let [this, that] = sides.map(|side| figures.of(&self.measure, side));
        let (one, other) = (median(this)?, median(that)?);
        let turns: Vec<f64> = this
            .iter()
            .zip(that)
            .map(|(one, other)| one / other)
            .collect();
        let (ratio, range) = match one / other {
            ratio if ratio.is_finite() => (format!("{ratio:.2}"), range(&turns)),
            _ if self.target.is_of_ratio() => return None,
            _ => Default::default(),
        };
        let met = self.target.met(one / other, this, that);
        let verdict = match self.target {
            Target::None => "",
            _ if met => "  met",
            _ => "  MISSED",
        };
        Some(format!(
            "  {:<24} {:>10} {:>10}  {:<10} {ratio:>5}  {range:<12} {}{verdict}",
            self.what,
            digits(one),
            digits(other),
            self.unit,
            self.target
        ))
    }
}

/// The least and the most of these.
fn range(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{least:.2} - {most:.2}")
}

/// A value, with no more digits than mean something.
fn digits(value: f64) -> String {
    let decimals = match value {
        0.0 => 0,
        value if value < 0.001 => 6,
        value if value < 0.1 => 4,
        value if value < 10.0 => 2,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::bench::figures::Reader;

    fn groups() -> [Group; 1] {
        let row = |what, measure, target| row(what, "requests/s", measure, target);
        [Group {
            what: "VIP / direct",
            sides: ["vip", "direct"],
            rows: vec![
                row("keep-alive", "keep-alive", Target::AtLeast(0.95)),
                row("close", "close", Target::AtLeast(0.9)),
            ],
        }]
    }

    #[test]
    fn a_ratio_is_of_medians_and_what_is_missing_is_named() {
        let mut reader = Reader::default();
        let said = "figure keep-alive vip 90\nfigure keep-alive direct 100\n\
                    figure keep-alive vip 94.6\nfigure keep-alive direct 10\n\
                    figure keep-alive vip 94.6\nfigure keep-alive direct 100\n\
                    figure close vip 7\n";
        reader.write_all(said.as_bytes()).unwrap();
        let (text, whole) = table(&groups(), &reader.figures());
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "",
                "VIP / direct",
                "  keep-alive                       95        100  requests/s  0.95  0.90 - 9.46  >= 0.95  met",
                "  close                    not measured",
            ]
        );
        assert!(!whole);
    }

    #[test]
    fn a_missed_target_is_measured_all_the_same() {
        let mut reader = Reader::default();
        let said = "figure keep-alive vip 94\nfigure keep-alive direct 100\n\
                    figure close vip 9\nfigure close direct 10\n";
        reader.write_all(said.as_bytes()).unwrap();
        let (text, whole) = table(&groups(), &reader.figures());
        assert!(whole);
        assert!(text.contains(">= 0.95  MISSED"), "{text}");
        assert!(text.contains(">= 0.90  met"), "{text}");
    }

    fn line(target: Target, said: &str) -> Option<String> {
        let mut reader = Reader::default();
        reader.write_all(said.as_bytes()).unwrap();
        let row = row("fill", "s", "fill", target);
        row.line(["ours", "theirs"], &reader.figures())
    }

    #[test]
    fn less_time_is_better() {
        let said = "figure fill ours 0.3\nfigure fill theirs 4\n";
        let line = line(Target::AtMost(0.1), said).unwrap();
        assert_eq!(
            line,
            "  fill                           0.30       4.00  s           0.07  0.07 - 0.07  <= 0.10  met"
        );
        let said = "figure fill ours 0.00044\nfigure fill theirs 0.004\n";
        let line = self::line(Target::AtMost(0.1), said).unwrap();
        assert!(line.contains("0.000440     0.0040"), "{line}");
        assert!(line.ends_with("<= 0.10  MISSED"), "{line}");
    }

    #[test]
    fn what_is_wanted_of_our_side_is_not_asked_of_the_other() {
        let met = line(
            Target::OursAtMost(0.0),
            "figure fill ours 0\nfigure fill theirs 7\n",
        );
        assert!(met.unwrap().ends_with(" ours <= 0  met"));
        let missed = line(
            Target::OursAtMost(2.0),
            "figure fill ours 3\nfigure fill theirs 1\n",
        );
        assert!(missed.unwrap().ends_with(" ours <= 2  MISSED"));
    }

    #[test]
    fn what_shall_be_zero_has_no_ratio_and_forgives_none() {
        let nothing = "figure fill ours 0\nfigure fill theirs 0\n";
        let said = line(Target::Zero, nothing).unwrap();
        assert!(said.ends_with(" 0  met"), "{said}");
        assert!(!said.contains("NaN"), "{said}");
        assert_eq!(line(Target::AtMost(0.1), nothing), None, "not measured");
        let once = format!("{nothing}figure fill ours 0\nfigure fill ours 1\n");
        let said = line(Target::Zero, &once).unwrap();
        assert!(said.ends_with(" 0  MISSED"), "{said}");
    }
}
