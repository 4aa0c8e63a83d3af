//! `ipvsmeshd doctor`: prints what was found.

use std::{io::Write as _, process::ExitCode};

use daemon::doctor::{Check, Verdict};

/// Prints it; fails where something fails.
pub(crate) fn print(checks: &[Check], json: bool) -> anyhow::Result<ExitCode> {
    let text = match json {
        true => format!("{}\n", serde_json::to_string(checks)?),
        false => render(checks),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    let failed = checks.iter().any(|one| one.verdict == Verdict::Failure);
    Ok(match failed {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

fn render(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let verdict = check.verdict.as_str();
        text.push_str(&format!(
            "{verdict:<9} {:<14} {}\n",
            check.name, check.found
        ));
        if !check.fix.is_empty() {
            text.push_str(&format!("{:24} fix: {}\n", "", check.fix));
        }
    }
    let count = |verdict| checks.iter().filter(|one| one.verdict == verdict).count();
    let (failures, warnings) = (count(Verdict::Failure), count(Verdict::Warning));
    let number = |count: usize, word: &str| match count {
        1 => format!("1 {word}"),
        count => format!("{count} {word}s"),
    };
    text.push_str(&match (failures, warnings) {
        (0, 0) => "\nThis machine can run the mesh.\n".to_owned(),
        (0, warnings) => format!(
            "\nThis machine can run the mesh; {}.\n",
            number(warnings, "warning")
        ),
        (failures, warnings) => format!(
            "\n{}, {}.\n",
            number(failures, "failure"),
            number(warnings, "warning")
        ),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(verdict: Verdict) -> Check {
        Check {
            name: "disk",
            verdict,
            found: "/var has 3 MB free".to_owned(),
            fix: match verdict {
                Verdict::Ok => String::new(),
                _ => "make room".to_owned(),
            },
        }
    }

    #[test]
    fn each_check_is_a_line_with_its_fix_below() {
        let text = render(&[check(Verdict::Ok), check(Verdict::Failure)]);
        let expected = "\
ok        disk           /var has 3 MB free
FAILURE   disk           /var has 3 MB free
                         fix: make room

1 failure, 0 warnings.
";
        assert_eq!(text, expected);
        let fine = render(&[check(Verdict::Ok)]);
        assert!(fine.ends_with("This machine can run the mesh.\n"), "{fine}");
        let warned = render(&[check(Verdict::Warning)]);
        assert!(
            warned.ends_with("can run the mesh; 1 warning.\n"),
            "{warned}"
        );
    }
}
