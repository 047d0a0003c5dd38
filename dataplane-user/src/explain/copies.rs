//! Copies of the attached programs, in this process alone.
//!
//! They read the live maps, and write to maps of their own: a test run of them counts nothing, and touches
//! no lease, that packets see. The kernel's tag of a program is a sum over its instructions, so equal tags
//! mean that what is on the hook would do the same.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{Array, HashMap, Map, MapData, MapInfo, PerCpuArray},
    programs::{Program as Loaded, ProgramInfo, loaded_programs},
};
use dataplane_common::{
    Counter, Flow, IfIndex, Lease, LinkState, Program, Reason, Settings, link::LINK_SLOTS,
};

use crate::{
    bpf::{AttachedLink, Attachment, Maps, Pins, maps, sys},
    object,
};

/// What programs only read. Every other map of a copy is its own.
const SHARED: [&str; 7] = ["ROUTES", "MASKS", "NODES", "ENDPOINTS", "EPOCH", "KEPT_AT", "TRY"];
/// The map with the settings, as the kernel has it.
const RODATA: &str = ".rodata";
/// Their name in the object.
const SETTINGS: &str = "SETTINGS";
/// What a program may add to a packet, bytes, and more.
const HEADROOM: usize = 256;

/// The copies.
pub struct Copies {
    ebpf: Ebpf,
    settings: Settings,
    leases: Vec<(Flow, Lease)>,
}

/// What a packet comes with.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The interface that it is on.
    pub interface: IfIndex,
    /// The one by which it came in.
    pub came_by: IfIndex,
}

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    /// What was counted; `None`: nothing, so that it is left to the next program.
    pub reason: Option<Reason>,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

impl Copies {
    /// Loads a copy of each program that is attached, with the settings of those.
    ///
    /// # Errors
    /// If a map has no pin, the kernel refuses, or the attached programs are of another version.
    pub fn load(pins: &Pins, attached: &[(Attachment, AttachedLink)]) -> Result<Self> {
        let infos = infos(attached)?;
        let settings = settings(&infos)?;
        let mut loader = EbpfLoader::new();
        let paths = SHARED.map(|name| (name, pins.map(name)));
        for (name, path) in &paths {
            // aya would make, and pin, what is not there.
            let is_there = path.try_exists().with_context(|| path.display().to_string())?;
            ensure!(is_there, "there is no map at {}; restart the daemon", path.display());
            loader.map_pin_path(name, path);
        }
        let silent = 0_u8;
        loader.override_global(SETTINGS, &settings, true);
        loader.override_global(aya_log::LEVEL, &silent, true);
        loader.map_max_entries(maps::UNANSWERED, settings.unanswered_sets);
        let mut ebpf = loader.load(object::DATAPLANE).context("loading copies of the programs")?;
        for (program, attached) in &infos {
            let copy = ebpf.program_mut(program.as_str()).context("no such program")?;
            match copy {
                Loaded::SchedClassifier(copy) => copy.load(),
                Loaded::Xdp(copy) => copy.load(),
                _ => continue,
            }
            .with_context(|| format!("loading a copy of {program}"))?;
            ensure!(
                copy.info()?.tag() == attached.tag(),
                "the {program} that is attached is of another version of tunless than this \
                 command: restart the daemon (`systemctl restart tunless`), or use the command \
                 that came with it"
            );
        }
        Ok(Self { ebpf, settings, leases: Vec::new() })
    }

    /// What the attached programs were loaded with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Gives the copies the state of each link.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn copy_links(&mut self, live: &Maps) -> Result<()> {
        let mut own: Array<&mut MapData, LinkState> = map(&mut self.ebpf, "LINKS")?.try_into()?;
        for (_, link) in live.links.all()? {
            ensure!((LinkState::slot(link.ifindex) as usize) < LINK_SLOTS, "no such slot");
            own.set(LinkState::slot(link.ifindex), link, 0)?;
        }
        Ok(())
    }

    /// Gives the copies this lease, from now on before each run.
    pub fn copy_lease(&mut self, flow: Flow, lease: Lease) {
        self.leases.push((flow, lease));
    }

    /// Runs the copy of a program on a frame. Nothing is sent.
    ///
    /// # Errors
    /// If there is no copy of it, or the kernel refuses such a run.
    pub fn run(&mut self, program: Program, frame: &[u8], context: Context) -> Result<Ran> {
        let mut own: HashMap<&mut MapData, Flow, Lease> =
            map(&mut self.ebpf, maps::LEASES)?.try_into()?;
        for (flow, lease) in &self.leases {
            own.insert(flow, lease, 0)?;
        }
        let before = self.counted()?;
        let mut out = vec![0; frame.len() + HEADROOM];
        let context = match program {
            Program::DecapXdp => xdp_context(context, frame.len()),
            _ => skb_context(context),
        };
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        let ran = match self.ebpf.program(program.as_str()) {
            Some(Loaded::SchedClassifier(copy)) => copy.test_run(options),
            Some(Loaded::Xdp(copy)) => copy.test_run(options),
            _ => bail!("no copy of {program}"),
        }
        .with_context(|| format!("running a copy of {program}"))?;
        out.truncate(ran.data_size_out as usize);
        let after = self.counted()?;
        let moved = Reason::ALL.iter().zip(before.iter().zip(&after));
        let reason = moved.into_iter().find(|(_, (before, after))| before != after);
        Ok(Ran { reason: reason.map(|(reason, _)| *reason), frame: out })
    }

    /// Packets by reason, of the copies alone.
    fn counted(&mut self) -> Result<Vec<u64>> {
        let own: PerCpuArray<&mut MapData, Counter> =
            map(&mut self.ebpf, "COUNTERS")?.try_into()?;
        let count = |reason: &Reason| -> Result<u64> {
            Ok(own.get(&(*reason as u32), 0)?.iter().map(|cpu| cpu.packets).sum())
        };
        Reason::ALL.iter().map(count).collect()
    }
}

fn map<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Map> {
    ebpf.map_mut(name).with_context(|| format!("the object has no map {name}"))
}

/// One of each program that is attached.
fn infos(attached: &[(Attachment, AttachedLink)]) -> Result<Vec<(Program, ProgramInfo)>> {
    let mut found: Vec<(Program, ProgramInfo)> = Vec::new();
    for info in loaded_programs() {
        // Another's may go meanwhile.
        let Ok(info) = info else { continue };
        let of = attached.iter().find(|(_, link)| link.program_id == info.id());
        if let Some((at, _)) = of
            && found.iter().all(|(program, _)| *program != at.program)
        {
            found.push((at.program, info));
        }
    }
    let is_found = |at: &Attachment| found.iter().any(|(program, _)| *program == at.program);
    if let Some((missing, _)) = attached.iter().find(|(at, _)| !is_found(at)) {
        bail!("the kernel does not show the attached {}; try again", missing.program);
    }
    Ok(found)
}

/// The settings of these programs.
fn settings(programs: &[(Program, ProgramInfo)]) -> Result<Settings> {
    let mut found = None;
    for (program, info) in programs {
        let maps = info.map_ids()?.with_context(|| format!("the kernel hides {program}'s maps"))?;
        let read = maps.into_iter().find_map(|id| rodata(id).transpose());
        let read = read.with_context(|| format!("{program} has no settings"))??;
        let read = parse(&read, object::DATAPLANE).with_context(|| {
            format!(
                "reading the settings of {program}; restart the daemon if it is another version"
            )
        })?;
        if *found.get_or_insert(read) != read {
            bail!("the daemon is replacing programs just now; try again");
        }
    }
    found.context("no program is attached")
}

/// The read-only data in the map with this number, if that is what it holds.
fn rodata(id: u32) -> Result<Option<Vec<u8>>> {
    let info = MapInfo::from_id(id)?;
    if info.name_as_str() != Some(RODATA) {
        return Ok(None);
    }
    let map = info.fd()?.as_fd().try_clone_to_owned()?;
    let mut value = vec![0; info.value_size() as usize];
    sys::lookup(&map, &0_u32.to_ne_bytes(), &mut value).context("reading read-only data")?;
    Ok(Some(value))
}

/// The settings in read-only data of programs of this object.
fn parse(rodata: &[u8], object: &[u8]) -> Result<Settings> {
    let mut object = aya_obj::Object::parse(object).map_err(|error| anyhow!("{error}"))?;
    let data = |object: &aya_obj::Object| {
        let map = object.maps.get(RODATA).map(|map| map.data().to_vec());
        map.context("the object has no read-only data")
    };
    // Where what is patched differs.
    let patched = [0xff; size_of::<Settings>()];
    let before = data(&object)?;
    object
        .patch_map_data([(SETTINGS, (&patched[..], true))].into_iter().collect())
        .map_err(|error| anyhow!("{error}"))?;
    let after = data(&object)?;
    ensure!(rodata.len() == after.len(), "{} bytes in the place of {}", rodata.len(), after.len());
    let at = before.iter().zip(&after).position(|(before, after)| before != after);
    let at = at.context("the object has no settings")?;
    let bytes = rodata.get(at..at + size_of::<Settings>()).context("they are cut off")?;
    // SAFETY: as many bytes as the settings have, which are numbers for which any bits are a value.
    Ok(unsafe { bytes.as_ptr().cast::<Settings>().read_unaligned() })
}

/// `struct __sk_buff` (`linux/bpf.h`), with what a test run takes over.
fn skb_context(context: Context) -> Vec<u8> {
    let mut bytes = vec![0; 192];
    bytes[36..40].copy_from_slice(&context.came_by.0.to_ne_bytes());
    bytes[40..44].copy_from_slice(&context.interface.0.to_ne_bytes());
    bytes
}

/// `struct xdp_md`, likewise.
fn xdp_context(context: Context, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; 24];
    bytes[4..8].copy_from_slice(&(length as u32).to_ne_bytes());
    bytes[12..16].copy_from_slice(&context.interface.0.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_where_the_loader_writes_them() {
        let wanted =
            Settings { lease: 5, secret: 0x1234_5678, unwrap_flags: 9, ..Settings::default() };
        // SAFETY: `Settings` is `repr(C)` without padding, so all its bytes are set.
        let bytes = unsafe {
            std::slice::from_raw_parts((&raw const wanted).cast::<u8>(), size_of::<Settings>())
        };
        let mut object = aya_obj::Object::parse(object::DATAPLANE).unwrap();
        object.patch_map_data([(SETTINGS, (bytes, true))].into_iter().collect()).unwrap();
        let rodata = object.maps[RODATA].data().to_vec();
        assert_eq!(parse(&rodata, object::DATAPLANE).unwrap(), wanted);
        assert!(parse(&rodata[1..], object::DATAPLANE).is_err(), "of another object");
    }

    #[test]
    fn contexts_name_the_interfaces() {
        let context = Context { interface: IfIndex(7), came_by: IfIndex(9) };
        let skb = skb_context(context);
        assert_eq!((skb.len(), skb[36], skb[40]), (192, 9, 7));
        let xdp = xdp_context(context, 60);
        assert_eq!((xdp.len(), xdp[4], xdp[12]), (24, 60, 7));
    }
}
