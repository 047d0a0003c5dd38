//! Programs and filters that are not ours on the hooks where ours are. [`judge`] decides; this file
//! looks.

mod judge;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use aya::programs::TcAttachType;
use dataplane_common::{IfIndex, Program};

use self::judge::{Hook, On, Side, Whose};
use super::super::{Check, Row};
use crate::{
    bpf::{
        Attachment, filters,
        foreign::{Read, Reader},
        sys,
    },
    daemon::{outside::Outside, report::Decided},
    kernel::{Filter, Kernel},
};

/// Rows about those hooks, or one about all.
pub async fn rows(decided: &Decided, outside: &Outside) -> Vec<Row> {
    match look(decided, outside).await {
        Ok(hooks) => judge::rows(&hooks),
        Err(error) => vec![super::unread(Check::Hooks, &error)],
    }
}

/// A program or filter, before its name is known.
enum Raw {
    Program(u32),
    Filter(Filter),
}

impl Raw {
    const fn id(&self) -> Option<u32> {
        match self {
            Self::Program(id) => Some(*id),
            Self::Filter(filter) => filter.program_id,
        }
    }
}

async fn look(decided: &Decided, outside: &Outside) -> Result<Vec<Hook>> {
    let kernel = Kernel::connect()?;
    let xdp = kernel.xdp_programs().await?;
    let mut raw: BTreeMap<(IfIndex, Side), Vec<Raw>> = BTreeMap::new();
    for Attachment { program, ifindex } in &decided.attachments {
        if !outside.host.links.contains_key(ifindex) {
            continue;
        }
        let side = side(*program);
        if side != Side::Egress {
            // XDP takes packets before TC sees them.
            let programs = xdp.get(ifindex).into_iter().flatten();
            raw.insert((*ifindex, Side::Xdp), programs.map(|id| Raw::Program(*id)).collect());
        }
        let direction = match side {
            Side::Xdp => continue,
            Side::Ingress => TcAttachType::Ingress,
            Side::Egress => TcAttachType::Egress,
        };
        let mut on_it = tcx(*ifindex, direction)?;
        if outside.host.clsact.contains(ifindex) {
            let mut filters = kernel.filters(*ifindex).await?;
            filters.retain(|filter| filter.direction == direction);
            filters.sort_by_key(|filter| filter.priority);
            on_it.extend(filters.into_iter().map(Raw::Filter));
        }
        raw.insert((*ifindex, side), on_it);
    }
    let ours = ours(outside);
    let ids = raw.values().flatten().filter_map(Raw::id).filter(|id| !ours.contains_key(id));
    let read = Reader::default().read(&ids.collect());
    let hook = |((ifindex, side), on_it): ((IfIndex, Side), Vec<Raw>)| Hook {
        interface: outside.host.links[&ifindex].name.clone(),
        side,
        programs: on_it.iter().map(|raw| describe(raw, (ifindex, side), &ours, &read)).collect(),
    };
    Ok(raw.into_iter().map(hook).collect())
}

const fn side(program: Program) -> Side {
    match program {
        Program::DecapXdp => Side::Xdp,
        Program::EncapPod | Program::DecapTc | Program::ShadowIn => Side::Ingress,
        Program::EncapHost | Program::GrantDecap | Program::ShadowOut => Side::Egress,
    }
}

fn tcx(ifindex: IfIndex, direction: TcAttachType) -> Result<Vec<Raw>> {
    match sys::tcx_programs(ifindex, direction) {
        Ok(programs) => Ok(programs.into_iter().map(Raw::Program).collect()),
        // Gone meanwhile; or the kernel has no TCX.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error).context("asking for the programs on TCX"),
    }
}

/// The programs that the daemon attached, with the hook of each by number: one program serves many hooks.
fn ours(outside: &Outside) -> BTreeMap<u32, BTreeSet<(IfIndex, Side, Program)>> {
    let mut ours: BTreeMap<u32, BTreeSet<_>> = BTreeMap::new();
    for (at, link) in &outside.seen.links {
        let place = (at.ifindex, side(at.program), at.program);
        ours.entry(link.program_id).or_default().insert(place);
    }
    ours
}

fn describe(
    raw: &Raw,
    (ifindex, hook_side): (IfIndex, Side),
    ours: &BTreeMap<u32, BTreeSet<(IfIndex, Side, Program)>>,
    read: &Read,
) -> On {
    let id = raw.id();
    let places = id.and_then(|id| ours.get(&id)).into_iter().flatten();
    let mut ours_here = places.filter(|(at, side, _)| (*at, *side) == (ifindex, hook_side));
    if let Some((_, _, program)) = ours_here.next() {
        return On { id, name: program.to_string(), whose: Whose::Ours };
    }
    let shown = id.map(|id| read.get(id));
    let filter = match raw {
        Raw::Filter(filter) => Some(filter),
        Raw::Program(_) => None,
    };
    let name = match (shown, filter) {
        (Some(Ok(shown)), _) if !shown.name.is_empty() => shown.name.clone(),
        (_, Some(filter)) => filter.name.clone().unwrap_or_else(|| filter.kind.clone()),
        _ => String::new(),
    };
    let is_twin = filter.is_some_and(filters::is_ours)
        || Program::ALL.iter().any(|program| name == program.as_str());
    // What is proven is that TC goes on; XDP's numbers mean other things.
    let passes_on = hook_side != Side::Xdp && matches!(shown, Some(Ok(shown)) if shown.passes_on);
    On { id, name, whose: if is_twin { Whose::Twin } else { Whose::Other { passes_on } } }
}
