//! What a store keeps when its process is killed.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use ipvsmesh_store::{Embedded, Store as _};
use model::{Resource, Revision};

#[allow(clippy::unwrap_used, reason = "a helper of tests")]
fn writer(dir: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_store-test-writer"))
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

/// Revisions that the writer said it has written.
fn said(output: &mut BufReader<ChildStdout>) -> impl Iterator<Item = u64> {
    let lines = output.lines().map_while(Result::ok);
    lines.filter_map(|line| line.parse().ok())
}

#[tokio::test]
async fn whatever_was_committed_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut written = 0;
    for round in 1..=5 {
        let (mut child, mut output) = writer(dir.path());
        let before = written;
        written = said(&mut output).nth(10 * round).unwrap();
        assert!(written > before);
        // one that is still there is not joined
        let error = Embedded::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains(&format!("pid {}", child.id())), "{error}");
        child.kill().unwrap();
        child.wait().unwrap();
        written = said(&mut output).last().unwrap_or(written);

        let store = Embedded::open(dir.path()).unwrap();
        let state = store.load().await.unwrap();
        let last = state.revision.0;
        assert!(
            last == written || last == written + 1,
            "{last} of {written}"
        );
        assert_eq!(
            state.claims.len() as u64,
            2 * last,
            "transactions are whole"
        );
        for revision in 1..=last {
            for name in ["a", "b"] {
                let claim = &state.claims[&Resource::ServiceName(format!("{name}{revision}"))];
                assert_eq!(claim.version, Revision(revision));
            }
        }
        written = last;
    }
}
