//! How long things take, and of whose time.

use std::{fs, path::Path, time::Duration, time::Instant};

use anyhow::{Context as _, Result};

/// Ticks a second of `/proc`'s times (`USER_HZ`).
const TICKS: u64 = 100;

/// How long this took.
pub(crate) fn seconds<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let begin = Instant::now();
    let done = work()?;
    Ok((done, begin.elapsed().as_secs_f64()))
}

/// Seconds that a processor spent on this: the process's threads and the programs that
/// they waited for.
pub(crate) fn spent<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let before = used()?;
    let done = work()?;
    Ok((done, (used()?.saturating_sub(before)).as_secs_f64()))
}

fn used() -> Result<Duration> {
    let mut all = Duration::ZERO;
    for thread in fs::read_dir("/proc/self/task").context("cannot list this process's threads")? {
        let thread = thread.context("cannot list this process's threads")?;
        // one that ends meanwhile has used next to nothing
        let said = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        let spent = said.split_whitespace().next().unwrap_or("0");
        let spent = spent.parse().context("/proc/self/task/*/schedstat")?;
        all += Duration::from_nanos(spent);
    }
    // cutime and cstime of proc(5), after the name in brackets
    let stat = read("/proc/self/stat")?;
    let after = stat.rsplit(')').next().unwrap_or_default();
    for word in after.split_whitespace().skip(13).take(2) {
        all += ticks(word.parse().context("/proc/self/stat")?);
    }
    Ok(all)
}

/// Seconds that the kernel spent on this for the process's threads.
pub(crate) fn in_kernel<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let system = || -> Result<Duration> {
        // stime of proc(5)
        let stat = read("/proc/self/stat")?;
        let after = stat.rsplit(')').next().unwrap_or_default();
        let word = after.split_whitespace().nth(12).unwrap_or("0");
        Ok(ticks(word.parse().context("/proc/self/stat")?))
    };
    let before = system()?;
    let done = work()?;
    Ok((done, (system()?.saturating_sub(before)).as_secs_f64()))
}

fn ticks(number: u64) -> Duration {
    Duration::from_millis(1000 / TICKS * number)
}

/// How much of a processor's time was not idle for so long, 0 to 1, with nothing to do.
pub(crate) fn idle(length: Duration) -> Result<f64> {
    let (before, begin) = (idle_so_far()?, Instant::now());
    std::thread::sleep(length);
    let (after, length) = (idle_so_far()?, begin.elapsed());
    let idle = after.saturating_sub(before).as_secs_f64();
    Ok((1.0 - idle / length.as_secs_f64()).max(0.0))
}

/// Time that the processors were idle, of which there is one.
fn idle_so_far() -> Result<Duration> {
    let stat = read("/proc/stat")?;
    // cpu user nice system idle iowait ...
    let words = stat.split_whitespace().skip(4).take(2);
    let mut all = Duration::ZERO;
    for word in words {
        all += ticks(word.parse().context("/proc/stat")?);
    }
    Ok(all)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(Path::new(path)).with_context(|| format!("cannot read {path}"))
}
