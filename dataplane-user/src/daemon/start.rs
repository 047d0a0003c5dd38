//! How the daemon starts: on the file, or on the text it accepted last; from what serves.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{sync::watch, time::Instant};

use super::{
    CHECK, Daemon, Lock, RETRY,
    apply::{
        memory::{self, MemoryStore},
        serving, shadow,
    },
    attempt,
    config_watch::ConfigWatch,
    decide::{Decider, Fitness, Memory, NodeAddress, OwnNodes, address::node_address},
    failed_start::{self, FailedStart, Paused},
    http::Http,
    observe::{
        Observer,
        cores::Cores,
        elsewhere::Elsewhere,
        fitness::{self, Depth},
    },
    reload::refused,
    report::{ConfigState, Reporter, Stage},
    silence::Silence,
    underlay_errors::{Scope, UnderlayErrors},
    wakes::{Alarms, Wakes},
};
use crate::{
    bpf::{Pins, foreign::Reader},
    config::{BpffsDir, ConfigFile, HostFacts, file as config_file},
    container,
    desired::{self, Paths},
    kernel::{Events, Host, Kernel, TUNNEL, tunnel_owner},
    sources::hub::Hub,
};

/// Runs until a signal ends it.
///
/// # Errors
/// If the configuration is refused and no earlier run left one that was accepted, or if
/// another instance has the same pins. Later failures are reported and retried instead.
///
/// `tried`: for so long only, as `tunless try` has it.
pub async fn run(path: &Path, bpffs: Option<&Path>, tried: Option<Duration>) -> Result<()> {
    // Where the record of failed starts is, even if the file cannot be read.
    let pins = || pins_of(path, bpffs).unwrap_or_else(|_| Pins::new(BpffsDir::default().as_ref()));
    loop {
        let error = match start(path, bpffs, tried).await {
            Ok(daemon) => {
                FailedStart::forget(&daemon.pins)?;
                return daemon.run().await;
            }
            Err(error) if !failed_start::is_service() => return Err(error),
            Err(error) => error,
        };
        let (failed, pause) = FailedStart::record(&pins(), path, &error);
        if pause.is_zero() {
            return Err(error);
        }
        match failed.pause(path, pause).await? {
            Paused::Saved => {}
            Paused::Elapsed => return Err(error),
            Paused::Stopped(signal) => {
                tracing::info!("{signal}: stopped before it could start: {error:#}");
                return Ok(());
            }
        }
    }
}

/// Starts, and puts in place what can be decided.
async fn start(path: &Path, bpffs: Option<&Path>, tried: Option<Duration>) -> Result<Daemon> {
    // Before the first look, so that nothing happens unseen in between.
    let events = Events::subscribe()?;
    let kernel = Kernel::connect()?;
    let pins = pins_of(path, bpffs)?;
    let host = kernel.look().await?;
    let remembered = memory::read(&pins);
    let before = remembered.as_ref().ok().and_then(|memory| memory.attempt);
    let left = attempt::left(&pins, before)?;
    let attempt = match tried {
        Some(length) => Some(attempt::begin(length, left, &host)?),
        None => left,
    };
    // A file that is refused stops only what is not serving yet.
    let read = match read(path, bpffs, &kernel, &host, &pins, attempt.is_some()).await {
        Err(error) if !pins.exist() => return Err(error),
        read => read,
    };
    if read.is_ok() {
        take_over_other_directory(&kernel, &host, &pins).await?;
    }
    let mut memory = remembered.unwrap_or_else(|error| {
        tracing::warn!("starting without memory: {error:#}");
        Memory::default()
    });
    let (file, node, wrong) = match read {
        Ok((file, node)) => (file, node, Vec::new()),
        Err(error) => {
            let Some(text) = memory.config.clone() else { return Err(error) };
            let mut file = ConfigFile::from_text(path, text)?;
            pins.root().clone_into(&mut file.config.bpffs.0);
            if attempt.is_some() {
                attempt::adapt(&mut file)?;
            }
            (file, None, vec![refused(&format!("{error:#}"))])
        }
    };
    let mut programs = Reader::default();
    let fitness =
        match fitness::judge(&kernel, &host, &pins, &file, &mut programs, Depth::Whole).await {
            Ok(fitness) => fitness,
            // Programs of an earlier run may be at work, and refusing to start
            // would leave them so: they are replaced by ones that let the stack decide.
            Err(error) if pins.active().is_some() => {
                Fitness { refusal: Some(format!("{error:#}")), ..Fitness::default() }
            }
            Err(error) => return Err(error),
        };
    drop(host);
    // From here on something is made or changed.
    pins.prepare()?;
    let lock = Lock::take(&pins)?;
    pins.settle_active()?;
    memory.attempt = attempt;
    attempt::arm(&pins, attempt, tried.is_some())?;
    memory.config = Some(file.text().to_owned());
    memory.secret = serving::secret(&pins, memory.secret)?;
    memory.sysctls.extend(crate::tables::sysctls_of_0_1(&pins));
    let is_refused = !wrong.is_empty();
    let config = ConfigState::accepted(path, file.text());
    let mut reporter = Reporter::new(&pins, getrandom::u64().unwrap_or_default(), config);
    let (active, unreadable) = match serving::routes(&pins) {
        Ok(active) => (active, None),
        Err(error) => (BTreeMap::new(), Some(serving::unreadable(&pins, &error))),
    };
    let is_blocked = unreadable.is_some();
    reporter.set(Stage::File, wrong);
    reporter.set(Stage::Pins, unreadable.into_iter().collect());
    let (http, troubles) = Http::start(&pins, file.config.http.clone(), reporter.subscribe());
    let mut decider = Decider::new(file, memory, active);
    decider.set_fitness(fitness);
    let (hub, reports) = Hub::new();
    let scope = watch::Sender::<Scope>::default();
    // Before packets go out about which there could be errors.
    let underlay_errors = UnderlayErrors::listen(scope.subscribe());
    reporter.set_underlay_errors(underlay_errors.latest());
    let observer = Observer::new(kernel);
    let observer = if underlay_errors.are_unheard() { observer.deaf() } else { observer };
    let watch = ConfigWatch::new(path, decider.file().text())?;
    let now = Instant::now();
    let mut daemon = Daemon {
        observer,
        decider,
        hub,
        applier: None,
        reporter,
        http,
        wakes: Wakes::new(events, reports, underlay_errors, troubles, watch)?,
        pins,
        memory: MemoryStore::default(),
        scope,
        host_name: host_name(),
        bpffs_override: bpffs.is_some(),
        is_refused,
        is_blocked,
        needs_repair: false,
        rules_touched: true,
        is_ready: false,
        retry: RETRY,
        policy_seen: now,
        cores: Cores::default(),
        programs,
        alarms: Alarms { look: now, check: now + CHECK, resume: None, leases: None, report: None },
        silence: Silence::default(),
        elsewhere: Elsewhere::open(),
        lock,
        ends_with_attempt: tried.is_some(),
    };
    daemon.run_sources(node);
    daemon.begin().await?;
    Ok(daemon)
}

/// Where the pins are, even if the rest of the file is refused.
fn pins_of(path: &Path, bpffs: Option<&Path>) -> Result<Pins> {
    match bpffs {
        Some(directory) => Ok(Pins::new(directory)),
        None => match config_file::bpffs(path) {
            Ok(directory) => Ok(Pins::new(directory.as_ref())),
            // The refusal of the whole file has more to say.
            Err(refusal) => match ConfigFile::read(path) {
                Ok(file) => Ok(Pins::new(file.config.bpffs.as_ref())),
                Err(_) if BpffsDir::default().as_ref().is_dir() => {
                    Ok(Pins::new(BpffsDir::default().as_ref()))
                }
                Err(error) => {
                    let _ = refusal;
                    Err(error.into())
                }
            },
        },
    }
}

async fn read(
    path: &Path,
    bpffs: Option<&Path>,
    kernel: &Kernel,
    host: &Host,
    pins: &Pins,
    is_tried: bool,
) -> Result<(ConfigFile, Option<NodeAddress>)> {
    let mut file = ConfigFile::read(path)?;
    if is_tried {
        attempt::adapt(&mut file)?;
    }
    if let Some(directory) = bpffs {
        directory.clone_into(&mut file.config.bpffs.0);
    }
    let remembered = memory::read(pins).unwrap_or_default();
    shadow::refuse_beside_serving(&file, pins)?;
    let node = check_host(kernel, host, &file, &remembered).await?;
    Ok((file, node))
}

/// Checks a file by this host as it is now. Returns our node address, if anything names it.
///
/// # Errors
/// If the file does not fit it.
pub async fn check_host(
    kernel: &Kernel,
    host: &Host,
    file: &ConfigFile,
    remembered: &Memory,
) -> Result<Option<NodeAddress>> {
    let mut paths = Paths::new();
    for node in desired::configured_nodes(&file.config) {
        if let Some(path) = kernel.path(node, None).await? {
            paths.insert(node, path);
            break;
        }
    }
    let own = OwnNodes::known(&file.config.sources, &BTreeMap::new(), &remembered.own_nodes);
    let node = node_address(&file.config, host, &paths, &own, remembered.node);
    file.check_against(&HostFacts {
        interfaces: host.links.values().map(|link| link.name.clone()).collect(),
        unfit: desired::links::named_unfit(&file.config, host),
        addresses: host
            .addresses
            .iter()
            .map(|(_, net)| net.addr())
            .chain(file.config.node.address.filter(|address| host.has(*address)))
            .collect(),
        node: node.map(|node| node.address),
        pods: desired::local_pods(&file.config, host).into_keys().collect(),
    })?;
    Ok(node)
}

/// The tunnel device may belong to another directory of pins: `bpffs:` was changed. Its
/// directory becomes ours, if no daemon uses it and both are on one bpffs; otherwise the way to
/// remove it is named, before any program there is taken for somebody else's.
async fn take_over_other_directory(kernel: &Kernel, host: &Host, pins: &Pins) -> Result<()> {
    let Some((_, link)) = host.link(TUNNEL) else { return Ok(()) };
    let Some(owner) = tunnel_owner(link).filter(|owner| *owner != pins.root()) else {
        return Ok(());
    };
    let other = Pins::new(owner);
    let removal = format!(
        "`tunless detach --bpffs {}` removes what it left (pod traffic stops until this one has \
         started)",
        owner.display()
    );
    if !other.exist() || pins.exist() {
        bail!(
            "the interface {TUNNEL} belongs to another instance of tunless, with its pins in {}; \
             {removal}",
            owner.display()
        );
    }
    let lock = Lock::take(&other).with_context(|| {
        format!("{} is used by another instance; or {removal}", owner.display())
    })?;
    if let Some(parent) = pins.root().parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    std::fs::rename(owner, pins.root()).with_context(|| {
        format!("taking over {} as {}: {removal}", owner.display(), pins.root().display())
    })?;
    kernel.claim_tunnel(host, pins.root()).await?;
    tracing::info!("took over the pins in {} as {}", owner.display(), pins.root().display());
    crate::tables::move_sysctls_of_0_1(&other, pins);
    lock.remove()
}

/// This host's name, or what the cluster calls it.
pub fn host_name() -> String {
    if let Some(name) = container::node_name() {
        return name;
    }
    nix::unistd::gethostname().map_or_else(|_| String::new(), |name| name.to_string_lossy().into())
}
