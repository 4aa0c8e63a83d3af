//! Where the image's packages come from: the mirror that this machine itself
//! uses, asked of its apt.

use crate::child;

/// The image's distribution.
pub(crate) const SUITE: &str = "bookworm";

/// One line a list of packages: origin, suite as configured, component, address.
const FORMAT: &str = "$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)";

/// Settings of apt without which this machine's mirror may not be reached or
/// not be believed.
const SETTINGS: &[&str] = &[
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
];

/// The image's lines for `sources.list`; none where this machine is no Debian,
/// then mmdebstrap uses Debian's own.
pub(crate) fn sources() -> Vec<String> {
    let mut command = child::plain("apt-get");
    command.args(["indextargets", "--format", FORMAT, "Created-By: Packages"]);
    let own = command.output().map(|output| output.stdout);
    suited(&String::from_utf8_lossy(&own.unwrap_or_default()))
}

fn suited(targets: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for target in targets.lines() {
        let mut words = target.split('|');
        let (Some(origin), Some(suite), Some("main"), Some(address)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        // the origin is known once the lists were downloaded
        if !["Debian", ""].contains(&origin) {
            continue;
        }
        let suffix = suite.split_once('-').map_or("", |(_, suffix)| suffix);
        let line = match suffix {
            "" => format!("deb {address} {SUITE} main"),
            "updates" | "security" => format!("deb {address} {SUITE}-{suffix} main"),
            // backports and the like
            _ => continue,
        };
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// This machine's settings, as lines for `apt.conf`.
pub(crate) fn settings() -> Vec<String> {
    let output = child::plain("apt-config").arg("dump").output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    chosen(&String::from_utf8_lossy(&text))
}

fn chosen(dump: &str) -> Vec<String> {
    let wanted = |line: &&str| {
        let name = line.split_whitespace().next().unwrap_or_default();
        SETTINGS
            .iter()
            .any(|setting| setting.eq_ignore_ascii_case(name))
    };
    dump.lines().filter(wanted).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debian_of_any_release_gives_the_images_suites() {
        let targets = "Debian|trixie|main|http://mirror/debian/\n\
                       Debian|trixie|contrib|http://mirror/debian/\n\
                       Debian|trixie-security|main|http://mirror/debian-security/\n\
                       Debian|trixie-backports|main|http://mirror/debian/\n";
        assert_eq!(
            suited(targets),
            [
                "deb http://mirror/debian/ bookworm main",
                "deb http://mirror/debian-security/ bookworm-security main"
            ]
        );
    }

    #[test]
    fn lists_not_yet_downloaded_have_no_origin() {
        assert_eq!(
            suited("|bookworm|main|http://mirror/debian/\n"),
            ["deb http://mirror/debian/ bookworm main"]
        );
    }

    #[test]
    fn other_peoples_packages_are_left_out() {
        assert!(suited("Ubuntu|noble|main|http://mirror/ubuntu/\nx\n\n").is_empty());
    }

    #[test]
    fn only_settings_of_reaching_the_mirror_are_taken() {
        let dump = "APT \"\";\nAcquire::http::Proxy \"http://p:1\";\nAcquire::Languages \"none\";\n\
                    Acquire::Check-Valid-Until \"false\";\n";
        assert_eq!(
            chosen(dump),
            [
                "Acquire::http::Proxy \"http://p:1\";",
                "Acquire::Check-Valid-Until \"false\";"
            ]
        );
    }
}
