//! What a table costs that is there: one change to it, a new daemon that finds it, and
//! looking at it when nothing happens.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use jiff::Timestamp;
use kernel::scheduler;
use model::{Instance, State};
use plan::orchestrate::{Orchestrator, Plan};

use crate::{
    figure,
    mesh::Mesh,
    node::Node,
    time::{idle, seconds, spent},
};

/// How many, and what they are called.
#[derive(Args)]
pub(crate) struct Options {
    /// Services in the mesh, of two tasks each
    #[arg(long)]
    services: u32,
    /// The side that these are
    #[arg(long)]
    side: String,
}

/// The daemon's `CHECK` and `RESYNC`.
const CHECK: Duration = Duration::from_secs(3);
const RESYNC: Duration = Duration::from_secs(60);

/// Changes that make one value.
const CHANGES: usize = 20;
/// Values of each measure.
const TURNS: usize = 3;

/// Fills the tables and measures.
pub(crate) fn run(options: &Options) -> Result<()> {
    scheduler::load("rr")?;
    let mut mesh = Mesh::new(options.services)?;
    let instance: Instance = "hold".parse()?;
    let mut node = Node::new(&instance, &mesh.here)?;
    node.adopt(&mesh.state)?;
    let side = options.side.as_str();
    if options.services > 0 {
        changes(&mut node, &mut mesh, side)?;
    }
    restart(&node, &instance, &mesh, side)?;
    looking(&node, side)?;
    for _ in 0..TURNS {
        figure("idle-kernel", side, 100.0 * idle(Duration::from_secs(10))?);
    }
    Ok(())
}

/// From a changed state to the kernel having it, and to the orchestrator being content.
fn changes(node: &mut Node, mesh: &mut Mesh, side: &str) -> Result<()> {
    let processes = node.kernel.counters().processes;
    let mut orchestrator = Orchestrator::default();
    let mut look = |state: &State| {
        let plan = orchestrator.look(state, Timestamp::UNIX_EPOCH, &mut || [0; 16]);
        ensure!(plan == Plan::default(), "nothing is to be done: {plan:?}");
        Ok(())
    };
    let ((), first) = seconds(|| look(&mesh.state))?;
    figure("first-look", side, first);
    let mut step = 0;
    for _ in 0..TURNS {
        let (mut passes, mut looks) = (Vec::new(), Vec::new());
        for _ in 0..CHANGES {
            step += 1;
            for draining in [true, false] {
                mesh.drain(step, draining)?;
                let (writes, took) = seconds(|| node.pass(&mesh.state))?;
                ensure!(writes == 2, "{writes} writes for a task's TCP and UDP");
                passes.push(took);
                looks.push(seconds(|| look(&mesh.state))?.1);
            }
        }
        for (measure, mut took) in [("change", passes), ("change-look", looks)] {
            took.sort_by(f64::total_cmp);
            figure(measure, side, took[took.len() / 2]);
        }
    }
    let started = node.kernel.counters().processes - processes;
    figure("change-processes", side, started as f64);
    Ok(())
}

/// What the next daemon would write.
fn restart(before: &Node, instance: &Instance, mesh: &Mesh, side: &str) -> Result<()> {
    let mut next = Node::new(instance, &mesh.here)?;
    let (writes, took) = seconds(|| next.adopt(&mesh.state))?;
    ensure!(next.kernel.counters().writes() == writes as u64);
    figure("restart-writes", side, writes as f64);
    figure("restart", side, took);
    // nor has it disturbed the one that was there
    before.check()
}

/// Per cent of a processor that looking costs a daemon.
fn looking(node: &Node, side: &str) -> Result<()> {
    node.check()?;
    let share = |spent: f64, every: Duration| 100.0 * spent / every.as_secs_f64();
    let ((), check) = spent(|| node.check())?;
    figure("idle-check", side, share(check, CHECK));
    let ((), resync) = spent(|| node.resync())?;
    figure("idle-resync", side, share(resync, RESYNC));
    Ok(())
}
