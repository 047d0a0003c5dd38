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
        foreign::{Read, Reader},
        sys,
    },
    config::Pattern,
    kernel::{Filter, Host, Kernel},
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
    /// Its name, or why it cannot be read.
    name: Result<&'a str, &'a str>,
    /// It is proven to pass every packet on.
    passes_on: bool,
    /// It sees packets from the pod, and each of them: it comes before ours, or can.
    sees_all: bool,
}

impl<'a> Found<'a> {
    fn new(id: u32, read: &'a Read, sees_all: bool) -> Self {
        let shown = read.get(id);
        Self {
            id: Some(id),
            name: shown.map(|shown| shown.name.as_str()),
            passes_on: shown.is_ok_and(|shown| shown.passes_on),
            sees_all,
        }
    }

    fn is_accepted(self, accepted: &[Pattern]) -> bool {
        (self.sees_all && self.passes_on)
            || accepted.iter().any(|pattern| pattern.matches_program(self.name.ok()))
    }

    fn describe(self) -> String {
        match (self.name, self.id) {
            (Ok(name), Some(id)) if !name.is_empty() => format!("program `{name}` ({id})"),
            (Ok(name), None) if !name.is_empty() => format!("program `{name}`"),
            (Ok(_), Some(id)) => format!("program {id}, which has no name,"),
            (Err(why), Some(id)) => format!(
                "program {id} (its name and code cannot be read: {why}; `*` in \
                 leases.accept_programs accepts it)"
            ),
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
    reader: &mut Reader,
    terms: Terms<'_>,
) -> Result<Foreign> {
    let mut attached = Attached::look(kernel, host, pods, terms.ours).await?;
    let mut read = reader.read(&attached.ids(terms.ours));
    // An agent that restarts takes its programs away meanwhile.
    if read.misses_any(&attached.ids(terms.ours)) {
        attached = Attached::look(kernel, host, pods, terms.ours).await?;
        read = reader.read(&attached.ids(terms.ours));
    }
    Ok(attached.judge(host, &read, terms))
}

/// What is attached to pods' interfaces, ours included where the order counts.
#[derive(Default)]
struct Attached {
    /// The programs of one side, in their order.
    tcx: Vec<(IfIndex, TcAttachType, Vec<u32>)>,
    /// Filters that are not ours.
    filters: Vec<(IfIndex, Filter)>,
}

impl Attached {
    async fn look(
        kernel: &Kernel,
        host: &Host,
        pods: &BTreeSet<IfIndex>,
        ours: &BTreeSet<u32>,
    ) -> Result<Self> {
        let mut attached = Self::default();
        for ifindex in pods {
            let Some(link) = host.links.get(ifindex) else { continue };
            for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
                let programs = match sys::tcx_programs(*ifindex, direction) {
                    // Gone meanwhile; or the kernel has no TCX.
                    Err(error)
                        if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) =>
                    {
                        continue;
                    }
                    programs => programs.with_context(|| format!("TCX on {}", link.name))?,
                };
                if !programs.iter().all(|id| ours.contains(id)) {
                    attached.tcx.push((*ifindex, direction, programs));
                }
            }
            if host.clsact.contains(ifindex) {
                let filters = kernel.filters(*ifindex).await?.into_iter();
                let others = filters.filter(|filter| !is_ours(filter));
                attached.filters.extend(others.map(|filter| (*ifindex, filter)));
            }
        }
        Ok(attached)
    }

    /// Returns the numbers of all programs that are not ours.
    fn ids(&self, ours: &BTreeSet<u32>) -> BTreeSet<u32> {
        let on_tcx = self.tcx.iter().flat_map(|(_, _, programs)| programs).copied();
        let filters = self.filters.iter().filter_map(|(_, filter)| filter.program_id);
        on_tcx.filter(|id| !ours.contains(id)).chain(filters).collect()
    }

    fn judge(&self, host: &Host, read: &Read, terms: Terms<'_>) -> Foreign {
        let mut found = Foreign::default();
        let name = |ifindex| host.links.get(ifindex).map_or("an interface", |link| &*link.name);
        for (ifindex, direction, programs) in &self.tcx {
            let is_ingress = *direction == TcAttachType::Ingress;
            let others = programs.iter().filter(|id| !terms.ours.contains(id));
            let others = others.map(|id| Found::new(*id, read, is_ingress));
            if let Some(refused) = others.into_iter().find(|it| !it.is_accepted(terms.accepted)) {
                let refused = refused.describe();
                found.program = Some(format!("{refused} on {} (TCX)", name(ifindex)));
            } else if is_ingress && stands_before_others(programs, terms.ours) {
                // On the egress side ours redirects nothing, so there the order does not matter.
                let misplaced = Attachment { program: Program::EncapPod, ifindex: *ifindex };
                found.misplaced.insert(misplaced);
            }
        }
        for (ifindex, filter) in &self.filters {
            if filter.kind != "bpf" {
                found.filtered.insert(*ifindex);
                continue;
            }
            let sees_all = filter.direction == TcAttachType::Ingress
                && terms.as_filters
                && filter.priority < PRIORITY;
            let mut program = match filter.program_id {
                Some(id) => Found::new(id, read, sees_all),
                None => Found { id: None, name: Err(""), passes_on: false, sees_all },
            };
            // The kernel reports a filter's own name to anybody.
            if let (Err(_), Some(name)) = (program.name, &filter.name) {
                program.name = Ok(name);
            }
            if !program.is_accepted(terms.accepted) {
                let refused = program.describe();
                found.program = Some(format!("{refused} on {} (clsact)", name(ifindex)));
            }
        }
        found
    }
}

/// Whether a program of ours comes before one that is not.
fn stands_before_others(programs: &[u32], ours: &BTreeSet<u32>) -> bool {
    programs.iter().skip_while(|id| !ours.contains(id)).any(|id| !ours.contains(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted() {
        let named = [Pattern::from("tcx_egress_flow_parse"), Pattern::from("watch*")];
        let all = [Pattern::from("*")];
        for (name, passes_on, sees_all, accepted, expected) in [
            (Ok("anything"), true, true, &[][..], true),
            (Ok("anything"), true, false, &[], false),
            (Ok("anything"), false, true, &[], false),
            (Ok("watch"), false, true, &named, true),
            (Ok("tcx_egress_flow"), true, false, &named, true),
            (Ok("drop"), false, true, &named, false),
            (Err("hidden"), false, true, &named, false),
            (Err("hidden"), false, true, &all, true),
            (Ok("drop"), false, false, &all, true),
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
