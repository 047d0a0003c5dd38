//! Programs and filters of others on pods' interfaces: may flows be leased beside them?
//!
//! `verified` follows netfilter. A program that drops or redirects pods' packets decides as well, and a
//! leased packet passes by some of them. Accepted is
//!
//! - a program on the ingress side (packets from the pod) before ours, where every packet meets it, that
//!   is proven to pass each of them on ([`crate::bpf::verdict`]): those of `NetObserv` and Retina are like that;
//! - any program that `leases.accept_programs` names. On the egress side (packets to the pod), or behind
//!   ours, it misses what is leased, so that takes the operator's word.
//!
//! A program that came to TCX after ours stands behind it. Ours is attached anew then, at the end.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use aya::programs::TcAttachType;
use dataplane_common::{IfIndex, Program};

use crate::{
    bpf::{
        Attachment,
        filters::{PRIORITY, is_ours},
        foreign::{Shown, show},
        sys,
    },
    config::Pattern,
    kernel::{Host, Kernel},
};

/// What others have put on the pods' interfaces.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Foreign {
    /// A program that may decide in netfilter's stead: which, and where.
    pub program: Option<String>,
    /// Interfaces with filters of another kind, which want to see every packet.
    pub filtered: BTreeSet<IfIndex>,
    /// Our programs that stand before an accepted one.
    pub misplaced: BTreeSet<Attachment>,
}

/// A program of others on one side of an interface.
#[derive(Clone, Copy, Debug)]
struct Found<'a> {
    /// Its number.
    id: Option<u32>,
    /// Its name; `None`: it cannot be read.
    name: Option<&'a str>,
    /// It is proven to pass every packet on.
    passes_on: bool,
    /// It sees packets from the pod, and each of them: it comes before ours, or can.
    sees_all: bool,
}

impl Found<'_> {
    fn is_accepted(self, accepted: &[Pattern]) -> bool {
        (self.sees_all && self.passes_on)
            || accepted.iter().any(|pattern| pattern.matches_program(self.name))
    }

    fn describe(self) -> String {
        match (self.name, self.id) {
            (Some(name), Some(id)) if !name.is_empty() => format!("program `{name}` ({id})"),
            (Some(name), None) if !name.is_empty() => format!("program `{name}`"),
            (Some(_), Some(id)) => format!("program {id}, which has no name,"),
            (None, Some(id)) => {
                format!("program {id} (without CAP_SYS_ADMIN its name and code cannot be read)")
            }
            (_, None) => "a BPF filter".to_owned(),
        }
    }
}

/// How and beside what to look.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The numbers of our own programs.
    pub ours: &'a BTreeSet<u32>,
    /// `leases.accept_programs`.
    pub accepted: &'a [Pattern],
    /// Ours are clsact filters, which come behind all of TCX.
    pub as_filters: bool,
}

/// Looks for programs and filters that are not ours on the pods' interfaces.
///
/// # Errors
/// If the kernel does not tell.
pub async fn foreign(
    kernel: &Kernel,
    host: &Host,
    pods: &BTreeSet<IfIndex>,
    terms: Terms<'_>,
) -> Result<Foreign> {
    let mut found = Foreign::default();
    for ifindex in pods {
        let Some(link) = host.links.get(ifindex) else { continue };
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            let programs = match sys::tcx_programs(*ifindex, direction) {
                // Gone meanwhile; or the kernel has no TCX.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) => {
                    continue;
                }
                programs => programs.with_context(|| format!("TCX on {}", link.name))?,
            };
            if let Some(refused) = on_tcx(&programs, direction, *ifindex, terms, &mut found)? {
                found.program = Some(format!("{refused} on {} (TCX)", link.name));
            }
        }
        if !host.clsact.contains(ifindex) {
            continue;
        }
        for filter in kernel.filters(*ifindex).await? {
            if is_ours(&filter) {
                continue;
            }
            if filter.kind != "bpf" {
                found.filtered.insert(*ifindex);
                continue;
            }
            let shown = shown(filter.program_id)?;
            let name = shown.as_ref().map(|shown| shown.name.as_str()).or(filter.name.as_deref());
            let program = Found {
                id: filter.program_id,
                name,
                passes_on: shown.as_ref().is_some_and(|shown| shown.passes_on),
                sees_all: filter.direction == TcAttachType::Ingress
                    && terms.as_filters
                    && filter.priority < PRIORITY,
            };
            if !program.is_accepted(terms.accepted) {
                found.program = Some(format!("{} on {} (clsact)", program.describe(), link.name));
            }
        }
    }
    Ok(found)
}

/// Looks through one side's programs, in their order. Returns one that is not accepted.
fn on_tcx(
    programs: &[u32],
    direction: TcAttachType,
    ifindex: IfIndex,
    terms: Terms<'_>,
    found: &mut Foreign,
) -> Result<Option<String>> {
    let is_ingress = direction == TcAttachType::Ingress;
    let mut refused = None;
    for id in programs.iter().filter(|id| !terms.ours.contains(id)) {
        let shown = shown(Some(*id))?;
        let program = Found {
            id: Some(*id),
            name: shown.as_ref().map(|shown| shown.name.as_str()),
            passes_on: shown.as_ref().is_some_and(|shown| shown.passes_on),
            sees_all: is_ingress,
        };
        if !program.is_accepted(terms.accepted) {
            refused = Some(program.describe());
        }
    }
    // On the egress side ours redirects nothing, so there the order does not matter.
    if refused.is_none() && is_ingress && stands_before_others(programs, terms.ours) {
        found.misplaced.insert(Attachment { program: Program::EncapPod, ifindex });
    }
    Ok(refused)
}

/// Whether a program of ours comes before one that is not.
fn stands_before_others(programs: &[u32], ours: &BTreeSet<u32>) -> bool {
    programs.iter().skip_while(|id| !ours.contains(id)).any(|id| !ours.contains(id))
}

fn shown(id: Option<u32>) -> Result<Option<Shown>> {
    let Some(id) = id else { return Ok(None) };
    show(id).with_context(|| format!("reading program {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted() {
        let named = [Pattern::from("tcx_egress_flow_parse"), Pattern::from("watch*")];
        let all = [Pattern::from("*")];
        for (name, passes_on, sees_all, accepted, expected) in [
            (Some("anything"), true, true, &[][..], true),
            (Some("anything"), true, false, &[], false),
            (Some("anything"), false, true, &[], false),
            (Some("watch"), false, true, &named, true),
            (Some("tcx_egress_flow"), true, false, &named, true),
            (Some("drop"), false, true, &named, false),
            (None, false, true, &named, false),
            (None, false, true, &all, true),
            (Some("drop"), false, false, &all, true),
        ] {
            let found = Found { id: Some(7), name, passes_on, sees_all };
            assert_eq!(found.is_accepted(accepted), expected, "{found:?} {accepted:?}");
        }
    }

    #[test]
    fn ours_belong_behind_the_others() {
        let ours = BTreeSet::from([7, 8]);
        for (programs, expected) in [
            (&[][..], false),
            (&[7], false),
            (&[1, 7], false),
            (&[1, 2, 7, 8], false),
            (&[7, 1], true),
            (&[1, 7, 2], true),
            (&[1, 2], false),
        ] {
            assert_eq!(stands_before_others(programs, &ours), expected, "{programs:?}");
        }
    }
}
