//! Programming tables from empty, beside the distribution's programs.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use clap::Args;
use kernel::{netns, scheduler};
use model::Instance;
use plan::{
    netns::{Op, Place, Places},
    plan_writes,
};

use crate::{
    figure,
    mesh::Mesh,
    node::Node,
    restore::{self, Tables},
    time::{in_kernel, seconds},
};

/// How many.
#[derive(Args)]
pub(crate) struct Options {
    /// Services in the mesh, of two tasks each
    #[arg(long)]
    services: u32,
    /// Links, routes, sets and rules as well
    #[arg(long)]
    everything: bool,
}

/// The namespace of the other side.
const OTHER: &str = "restored";

/// Until a namespace that was deleted has gone.
const GONE: Duration = Duration::from_secs(20);

/// Fills both sides' tables, once each, and takes them away again.
pub(crate) fn run(options: &Options) -> Result<()> {
    scheduler::load("rr")?;
    let mesh = Mesh::new(options.services)?;
    let instance: Instance = "fill".parse()?;
    services(&mesh, &instance)?;
    if options.everything {
        everything(&mesh, &instance)?;
    }
    Ok(())
}

/// The table of IPVS, for TCP and UDP, and nothing else.
fn services(mesh: &Mesh, instance: &Instance) -> Result<()> {
    let mut node = Node::new(instance, &mesh.here)?;
    let ipvs = |(place, op): &(Place, Op)| {
        *place == Place::Router && matches!(op, Op::NewService(..) | Op::NewDestination(..))
    };
    // IPVS has no destinations in a namespace whose loopback is down
    restore::run(&node.router(), "ip", &["link", "set", "lo", "up"], "")?;
    let ((ops, apply, kernel), took) = seconds(|| {
        let (wanted, follow) = seconds(|| Ok(node.follow(&mesh.state)))?;
        let (mut ops, plan) = seconds(|| Ok(plan_writes(&Places::new(), &wanted)))?;
        ops.retain(ipvs);
        let ops = Arc::new(ops);
        let (((), apply), kernel) = in_kernel(|| seconds(|| node.apply(&ops)))?;
        eprintln!(
            "{} IPVS objects: follow {follow:.3} s, plan {plan:.3} s, apply {apply:.3} s, \
             of which the kernel {kernel:.3} s",
            ops.len()
        );
        Ok((ops, apply, kernel))
    })?;
    figure("fill-services", "ours", took);
    figure("fill-apply", "ours", apply);
    figure("fill-kernel", "ours", kernel);
    clear(node)?;
    beside(&["fill-services", "fill-apply", "fill-kernel"], &ops)
}

/// The links, routes, sets and rules as well, and reading what is there before.
fn everything(mesh: &Mesh, instance: &Instance) -> Result<()> {
    let mut node = Node::new(instance, &mesh.here)?;
    let (count, took) = seconds(|| node.adopt(&mesh.state))?;
    eprintln!("{count} writes in all");
    figure("fill-everything", "ours", took);
    let wanted = node.follow(&mesh.state);
    clear(node)?;
    beside(&["fill-everything"], &plan_writes(&Places::new(), &wanted))
}

/// The same by ipvsadm and ipset.
fn beside(measures: &[&str], ops: &[(Place, Op)]) -> Result<()> {
    let tables = Tables::of(ops)?;
    netns::create(OTHER)?;
    restore::run(OTHER, "ip", &["link", "set", "lo", "up"], "")?;
    let ((), took) = seconds(|| tables.restore(OTHER))?;
    for measure in measures {
        figure(measure, "restore", took);
    }
    restore::run(OTHER, "ipvsadm", &["-C"], "")?;
    netns::delete(OTHER)?;
    std::thread::sleep(GONE);
    Ok(())
}

fn clear(node: Node) -> Result<()> {
    restore::run(&node.router(), "ipvsadm", &["-C"], "")?;
    node.remove()?;
    std::thread::sleep(GONE);
    Ok(())
}
