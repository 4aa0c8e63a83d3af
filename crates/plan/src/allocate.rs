//! Picks free addresses, marks, blocks and ports. Whatever is picked is claimed
//! in the transaction of its owner, only if nobody else was faster.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use model::{Claim, Key, Mark, Object, Resource, State, Transaction};

use crate::admit::Refusal;

/// How long an address, mark or block that was given back is left alone:
/// somebody may still hold it in a cache.
pub(crate) const QUARANTINE: SignedDuration = SignedDuration::from_secs(60);

/// Prefix length of the block that a node leases of a subnet, unless that is smaller.
pub(crate) fn lease_prefix(subnet: IpNet) -> u8 {
    let block = if subnet.addr().is_ipv4() { 24 } else { 112 };
    block.max(subnet.prefix_len())
}

/// Whether both have an address in common.
pub(crate) fn overlap(one: IpNet, two: IpNet) -> bool {
    one.contains(&two.network()) || two.contains(&one.network())
}

/// Whether somebody has it, or had it a moment ago.
fn taken(claim: &Claim, now: Timestamp) -> bool {
    claim
        .released
        .is_none_or(|released| now.duration_since(released) < QUARANTINE)
}

/// Collects the claims of one transaction.
pub(crate) struct Allocator<'a> {
    state: &'a State,
    now: Timestamp,
    /// Picked in this transaction.
    picked: BTreeSet<Resource>,
    /// The last mark of this transaction: the next one is above it.
    mark: u32,
}

impl<'a> Allocator<'a> {
    pub(crate) fn new(state: &'a State, now: Timestamp) -> Self {
        Self {
            state,
            now,
            picked: BTreeSet::new(),
            mark: Mark::FIRST.get(),
        }
    }

    /// Who has it now.
    pub(crate) fn owner(&self, resource: &Resource) -> Option<&'a str> {
        let claim = self.state.claims.get(resource)?;
        claim
            .released
            .is_none()
            .then_some(claim.value.owner.as_str())
    }

    fn free(&self, resource: &Resource, strict: bool) -> bool {
        let claimed = self.state.claims.get(resource);
        let blocked = claimed.is_some_and(|claim| {
            if strict {
                taken(claim, self.now)
            } else {
                claim.released.is_none()
            }
        });
        !blocked && !self.picked.contains(resource)
    }

    /// Whether nobody has it now.
    pub(crate) fn is_free(&self, resource: &Resource) -> bool {
        self.free(resource, false)
    }

    /// Writes that `owner` has it; the transaction fails if somebody else does by then.
    pub(crate) fn claim(&mut self, tx: &mut Transaction, resource: &Resource, owner: &str) {
        self.picked.insert(resource.clone());
        let claim = Claim {
            resource: resource.clone(),
            owner: owner.to_owned(),
            released: None,
        };
        match self.state.claims.get(resource) {
            // a tombstone is taken over
            Some(tombstone) => tx.replace(tombstone.version, Object::Claim(claim)),
            None => tx.create(Object::Claim(claim)),
        }
    }

    /// The first free one, one that was given back lately only if there is no other.
    fn first<T>(
        &self,
        candidates: impl Iterator<Item = T> + Clone,
        resource: impl Fn(&T) -> Resource,
    ) -> Option<T> {
        let strict = candidates
            .clone()
            .find(|one| self.free(&resource(one), true));
        strict.or_else(|| {
            candidates
                .into_iter()
                .find(|one| self.free(&resource(one), false))
        })
    }

    /// A free address of a block, without its first (the gateway), network and
    /// broadcast address.
    pub(crate) fn address(&self, block: IpNet) -> Option<IpAddr> {
        let gateway = model::gateway(block);
        let after = block.hosts().skip_while(move |address| *address <= gateway);
        self.first(after, |address| Resource::Address(*address))
    }

    /// A free VIP of a block; all but the network and broadcast address.
    pub(crate) fn vip(&self, block: IpNet) -> Option<IpAddr> {
        let hosts = block
            .hosts()
            .filter(move |address| *address != block.network());
        self.first(hosts, |address| Resource::Address(*address))
    }

    /// A free mark: the one above all others, while there is one.
    pub(crate) fn mark(&mut self) -> Option<Mark> {
        let marks = |from| (from..=Mark::LAST.get()).filter_map(Mark::new);
        let marked = Resource::Mark(Mark::FIRST)..=Resource::Mark(Mark::LAST);
        let highest = match self.state.claims.range(marked).next_back() {
            Some((Resource::Mark(mark), _)) => mark.get(),
            _ => Mark::FIRST.get(),
        };
        let mark = self
            .first(marks(self.mark.max(highest)), |mark| Resource::Mark(*mark))
            .or_else(|| self.first(marks(Mark::FIRST.get()), |mark| Resource::Mark(*mark)))?;
        self.mark = mark.get();
        Some(mark)
    }

    /// A free mark, claimed.
    pub(crate) fn new_mark(&mut self, tx: &mut Transaction, owner: &str) -> Result<Mark, Refusal> {
        let mark = self.mark().ok_or_else(|| Refusal::Exhausted {
            what: "mark",
            pool: "the marks".to_owned(),
            remedy: "remove services that are unused",
        })?;
        self.claim(tx, &Resource::Mark(mark), owner);
        Ok(mark)
    }

    /// A free part of `pool` that overlaps none of `others` either.
    pub(crate) fn block(&self, pool: IpNet, prefix: u8, others: &[IpNet]) -> Option<IpNet> {
        let blocks = || pool.subnets(prefix).into_iter().flatten();
        let clear = |block: &IpNet| !others.iter().any(|other| overlap(*block, *other));
        let free = |strict| {
            blocks().find(|block| clear(block) && self.free(&Resource::Block(*block), strict))
        };
        free(true).or_else(|| free(false))
    }
}

/// Gives back what of all this an owner has.
pub(crate) fn release(
    state: &State,
    tx: &mut Transaction,
    owner: &str,
    now: Timestamp,
    all: impl IntoIterator<Item = Resource>,
) {
    for resource in all {
        give_back(state, tx, &resource, owner, now);
    }
}

/// Gives back what an owner has, if it has it. Names and ports are free at
/// once; the rest stays as a tombstone for a while.
pub(crate) fn give_back(
    state: &State,
    tx: &mut Transaction,
    resource: &Resource,
    owner: &str,
    now: Timestamp,
) {
    let Some(claim) = state.claims.get(resource) else {
        return;
    };
    if claim.owner != owner || claim.released.is_some() {
        return;
    }
    match resource {
        Resource::ServiceName(_)
        | Resource::NetworkName(_)
        | Resource::BlobName(..)
        | Resource::Listener(_) => {
            tx.delete(claim.version, Key::Claim(resource.clone()));
        }
        Resource::Block(_) | Resource::Address(_) | Resource::Mark(_) => {
            let tombstone = Claim {
                released: Some(now),
                ..Claim::clone(claim)
            };
            tx.replace(claim.version, Object::Claim(tombstone));
        }
    }
}
