//! The programs of `tunless trace` (`dataplane-ebpf/src/trace.rs`): around those that packets meet, and
//! where the kernel drops packets.
//!
//! They hang on descriptors of this process, so they are gone when it ends, however it ends.

mod calls;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Btf, Ebpf, Endianness,
    maps::{Array, Map, MapData, PerCpuArray, RingBuf},
    programs::{ProgramInfo, loaded_programs},
};
use aya_obj::{Object, btf::BtfKind};
use dataplane_common::{
    Program,
    trace::{Event, Filter, Offsets, Unreported},
};

use self::calls::Target;
use super::{Pins, links};
use crate::object;

/// `enum bpf_attach_type` (`linux/bpf.h`).
const BPF_TRACE_RAW_TP: u32 = 23;
const BPF_TRACE_FENTRY: u32 = 24;
const BPF_TRACE_FEXIT: u32 = 25;

/// A trace that is under way.
pub struct Tracing {
    object: Object,
    /// The other maps. Programs that are loaded later find all maps by their descriptors.
    _maps: HashMap<String, MapData>,
    _offsets: Array<MapData, Offsets>,
    _filter: Array<MapData, Filter>,
    unreported: PerCpuArray<MapData, Unreported>,
    events: RingBuf<MapData>,
    /// What ends when they are closed.
    started: Vec<OwnedFd>,
    /// The kernel's numbers of the programs that are watched.
    watched: BTreeSet<u32>,
}

impl Tracing {
    /// Makes the maps and starts the program at which the kernel drops packets.
    ///
    /// # Errors
    /// If this version's counters are not pinned, or the kernel refuses.
    pub fn start(pins: &Pins, offsets: Offsets, filter: Filter) -> Result<Self> {
        let context = "loading the programs of a trace";
        // The loader makes the maps; programs for other programs it cannot load (see `calls`).
        let mut made = Ebpf::load(object::TRACE).context(context)?;
        let mut object = Object::parse(object::TRACE).context(context)?;
        let mut maps = HashMap::new();
        for name in object.maps.keys() {
            let data = match name.as_str() {
                "COUNTERS" => MapData::from_pin(pins.map(name))
                    .with_context(|| format!("opening {}", pins.map(name).display()))?,
                _ => {
                    made.take_map(name).and_then(data).with_context(|| format!("no map {name}"))?
                }
            };
            maps.insert(name.clone(), data);
        }
        let layouts = object.maps.clone();
        let sections: HashSet<usize> =
            object.functions.keys().map(|(section, _)| *section).collect();
        let descriptor = |name: &String| maps.get(name).map(|map| map.fd().as_fd().as_raw_fd());
        let relocations =
            layouts.iter().filter_map(|(name, map)| Some((name.as_str(), descriptor(name)?, map)));
        object.relocate_maps(relocations, &sections).context(context)?;
        object.relocate_calls(&sections).context(context)?;

        let mut take = |name: &str| maps.remove(name).with_context(|| format!("no map {name}"));
        let mut offsets_map: Array<_, Offsets> = Map::Array(take("OFFSETS")?).try_into()?;
        offsets_map.set(0, offsets, 0).context("OFFSETS")?;
        let mut filter_map: Array<_, Filter> = Map::Array(take("FILTER")?).try_into()?;
        filter_map.set(0, filter, 0).context("FILTER")?;
        let events = RingBuf::try_from(Map::RingBuf(take("EVENTS")?))?;
        let unreported = Map::PerCpuArray(take("UNREPORTED")?).try_into()?;
        let mut tracing = Self {
            object,
            _maps: maps,
            _offsets: offsets_map,
            _filter: filter_map,
            unreported,
            events,
            started: Vec::new(),
            watched: BTreeSet::new(),
        };
        if filter.kernel != 0 {
            let kernel = Btf::from_sys_fs().context("the kernel's type information")?;
            let btf_id = kernel
                .id_by_type_name_kind("btf_trace_kfree_skb", BtfKind::Typedef)
                .context("the kernel has no tracepoint skb:kfree_skb")?;
            let target = Target { attach_type: BPF_TRACE_RAW_TP, btf_id, program: None };
            tracing.launch("drop_by_kernel", target)?;
        }
        Ok(tracing)
    }

    /// Watches the programs that are attached and not watched yet: a daemon that starts replaces them.
    /// Returns how many are watched in all.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn follow(&mut self, pins: &Pins) -> Result<usize> {
        // Those of `mode: shadow` name no reasons.
        let links = links::list(pins)?.into_iter().filter(|(at, _)| !at.program.is_shadow());
        for (attachment, link) in links {
            let id = link.program_id;
            if id == 0 || self.watched.contains(&id) {
                continue;
            }
            // Gone again meanwhile: the next look finds its successor.
            if let Some(found) = find(id) {
                self.watch(attachment.program, &found)
                    .with_context(|| format!("watching the program {}", attachment.program))?;
                self.watched.insert(id);
            }
        }
        Ok(self.watched.len())
    }

    /// Puts a pair of programs around one.
    fn watch(&mut self, program: Program, target: &ProgramInfo) -> Result<()> {
        let types = target.btf_id().context("it has no type information")?;
        let types = calls::types(types).context("its type information")?;
        let types = Btf::parse(&types, Endianness::default())?;
        let btf_id = types.id_by_type_name_kind(program.as_str(), BtfKind::Func)?;
        let descriptor = target.fd()?;
        // Behind it first: a run that is entered in between has no note of a packet.
        for (part, attach_type) in [("leave", BPF_TRACE_FEXIT), ("enter", BPF_TRACE_FENTRY)] {
            let target = Target { attach_type, btf_id, program: Some(descriptor.as_fd()) };
            self.launch(&format!("{part}_{program}"), target)?;
        }
        Ok(())
    }

    fn launch(&mut self, name: &str, target: Target<'_>) -> Result<()> {
        let program = self.object.programs.get(name);
        let program = program.with_context(|| format!("no program {name}"))?;
        let function = self.object.functions.get(&program.function_key());
        let function = function.with_context(|| format!("no code of {name}"))?;
        let loaded = calls::load(&program.license, &function.instructions, target).map_err(
            |(error, line)| {
                anyhow!(error).context(if line.is_empty() {
                    format!("the kernel refuses the program {name}")
                } else {
                    format!("the kernel refuses the program {name}: {line}")
                })
            },
        )?;
        let started = calls::start(&loaded).with_context(|| format!("starting {name}"))?;
        self.started.extend([loaded, started]);
        Ok(())
    }

    /// Takes the next event; `None`: there is none now.
    pub fn take_event(&mut self) -> Option<Event> {
        let event = self.events.next()?;
        // The ring has nothing else in it.
        if event.len() != size_of::<Event>() {
            return None;
        }
        // SAFETY: that many bytes are there, and for its numbers any bits are a value (`aya::Pod`).
        Some(unsafe { event.as_ptr().cast::<Event>().read_unaligned() })
    }

    /// Returns a descriptor that is readable when there are events.
    ///
    /// # Errors
    /// If this process has too many open.
    pub fn descriptor(&self) -> std::io::Result<OwnedFd> {
        self.events.as_fd().try_clone_to_owned()
    }

    /// Returns what was not reported so far.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn unreported(&self) -> Result<Unreported> {
        let values = self.unreported.get(&0, 0)?;
        Ok(values.iter().fold(Unreported::default(), |sum, one| Unreported {
            lost: sum.lost + one.lost,
            limited: sum.limited + one.limited,
        }))
    }
}

/// The loaded program with this number.
fn find(id: u32) -> Option<ProgramInfo> {
    loaded_programs().flatten().find(|program| program.id() == id)
}

/// What a map is made of, if it is of a kind that a trace has.
fn data(map: Map) -> Option<MapData> {
    match map {
        Map::Array(data) | Map::PerCpuArray(data) | Map::LruHashMap(data) | Map::RingBuf(data) => {
            Some(data)
        }
        _ => None,
    }
}
