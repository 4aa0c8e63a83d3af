//! A node as the daemon's data plane is one: follow, plan, apply.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context as _, Result, bail};
use imbl::OrdSet;
use kernel::{Kernel, netns};
use model::{Instance, NodeId, State};
use plan::{
    datapath::{Datapath, Settings},
    netns::{Op, Place, Places},
    plan_writes,
};
use tokio::runtime::Runtime;

/// The namespace that this process is in is the host's.
pub(crate) struct Node {
    pub(crate) kernel: Kernel,
    instance: Instance,
    runtime: Runtime,
    datapath: Datapath,
    believed: Places,
}

impl Node {
    /// With the two other namespaces, which are made where there are none; nothing of
    /// what is in them is known.
    pub(crate) fn new(instance: &Instance, id: &NodeId) -> Result<Self> {
        for name in [instance.ingress_netns(), instance.router_netns()] {
            if netns::inode(&name).is_err() {
                netns::create(&name)?;
            }
        }
        // the same as the daemon
        let kernel = Kernel::with_ipv6(instance.clone())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Ok(Self {
            kernel,
            instance: instance.clone(),
            runtime: runtime.context("cannot make a runtime")?,
            datapath: Datapath::new(id.clone(), instance.clone(), Settings::default()),
            believed: Places::new(),
        })
    }

    /// What the state asks for.
    pub(crate) fn follow(&mut self, state: &State) -> Places {
        self.datapath.follow(state, &OrdSet::new()).clone()
    }

    /// Reads all that is wanted.
    pub(crate) fn observe(&self, wanted: &Places) -> Result<Places> {
        let mut seen = Places::new();
        for (place, value) in wanted {
            let sysctls: BTreeSet<String> = value.sysctls.keys().cloned().collect();
            let observed = self.kernel.observe(place, &sysctls);
            if let Some(observed) = self.runtime.block_on(observed)? {
                seen.insert(place.clone(), observed);
            }
        }
        Ok(seen)
    }

    pub(crate) fn apply(&self, ops: &Arc<Vec<(Place, Op)>>) -> Result<()> {
        let failed = self.runtime.block_on(self.kernel.apply(Arc::clone(ops)));
        match failed.into_iter().next() {
            Some((index, error)) => Err(error).with_context(|| format!("{:?}", ops[index])),
            None => Ok(()),
        }
    }

    /// Reads the kernel and makes it what the state asks for.
    pub(crate) fn adopt(&mut self, state: &State) -> Result<usize> {
        let wanted = self.follow(state);
        self.believed = self.observe(&wanted)?;
        self.reach(wanted)
    }

    /// Makes the kernel what the state asks for, believing that nobody else changed it.
    pub(crate) fn pass(&mut self, state: &State) -> Result<usize> {
        let wanted = self.follow(state);
        self.reach(wanted)
    }

    fn reach(&mut self, wanted: Places) -> Result<usize> {
        let ops = Arc::new(plan_writes(&self.believed, &wanted));
        self.apply(&ops)?;
        self.believed = wanted;
        Ok(ops.len())
    }

    /// The check that the daemon makes every few seconds.
    pub(crate) fn check(&self) -> Result<()> {
        let drifted = self.runtime.block_on(self.kernel.drifted(&self.believed))?;
        if !drifted.is_empty() {
            bail!("nobody changed anything, yet it is seen: {drifted:?}");
        }
        Ok(())
    }

    /// What the daemon does once a minute: reads all, and finds nothing to do.
    pub(crate) fn resync(&self) -> Result<()> {
        let seen = self.observe(&self.believed)?;
        let ops = plan_writes(&seen, &self.believed);
        if !ops.is_empty() {
            bail!("nobody changed anything, yet it is seen: {ops:?}");
        }
        Ok(())
    }

    pub(crate) fn router(&self) -> String {
        self.instance.router_netns()
    }

    /// Takes the namespaces away; what is of it in the host's goes with that.
    pub(crate) fn remove(self) -> Result<()> {
        for name in [self.instance.ingress_netns(), self.instance.router_netns()] {
            netns::delete(&name)?;
        }
        Ok(())
    }
}
