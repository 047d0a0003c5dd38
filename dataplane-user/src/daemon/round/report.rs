//! What is told of a round: to the log, and to `tunless status`.

use anyhow::{Context as _, Result};
use dataplane_common::{Ipv4Be, Program, State};

use super::Reconciler;
use crate::{
    bpf::Attachment,
    clock,
    config::Fastpath,
    desired::{Desired, Facts, TunnelMode},
    sources::status::SourcesStatus,
};

impl Reconciler {
    pub(super) fn write_state(
        &mut self,
        desired: &Desired,
        facts: &Facts,
        synced: bool,
    ) -> Result<()> {
        // What runs, not what was asked for: new programs may have failed to load.
        let settings = *self.programs.as_ref().context("no programs")?.settings();
        let is_refused =
            |at: &&Attachment| at.program == Program::DecapXdp && self.no_xdp.contains(&at.ifindex);
        let refused = desired.attachments.iter().filter(is_refused).count();
        let state = State {
            heartbeat: u64::try_from(clock::monotonic().as_nanos())?,
            pid: std::process::id(),
            synced: synced.into(),
            node: facts.node.into(),
            tunnel: facts.tunnel.address.map(Into::into).unwrap_or_default(),
            tunnel_ifindex: desired.settings.tunnel_ifindex,
            tunnel_mtu: facts.tunnel.mtu,
            attachments: u32::try_from(desired.attachments.len() - refused)?,
            fastpath: settings.fastpath,
            spoof: settings.spoof,
            fastpath_withheld: self.withheld.is_some().into(),
            accelerate: u8::from(facts.mode == TunnelMode::Accelerate),
            reserved: [0; 4],
            secret: settings.secret,
        };
        let maps = self.maps.as_mut().context("no maps")?;
        maps.state.set(0, state, 0).context("writing the state")
    }

    /// After a round that could not even compare: says so, here and to `status`.
    pub fn give_up(&mut self, error: &anyhow::Error) {
        if let Some(maps) = &mut self.maps
            && let Ok(state) = maps.state()
        {
            let outcome = maps.state.set(0, State { synced: 0, ..state }, 0);
            outcome.unwrap_or_else(|error| tracing::debug!("writing the state: {error}"));
        }
        self.report(vec![format!("{error:#}")]);
    }

    /// Says what is wrong, once, and when it no longer is.
    pub fn report(&mut self, failures: Vec<String>) {
        for failure in failures.iter().filter(|failure| !self.reported.contains(failure)) {
            tracing::error!("{failure}");
        }
        if failures.is_empty() && !self.reported.is_empty() {
            tracing::info!("everything is in place again");
        }
        self.reported = failures;
    }

    /// Says what was found out, for the first lines of the log.
    pub fn announce(&self) {
        let Some(state) = self.maps.as_ref().and_then(|maps| maps.state().ok()) else { return };
        let config = &self.file.config;
        tracing::info!(
            "node {:?}, tunnel address {:?}, {} nodes, {} programs attached, fast path {}, pins in {}",
            state.node,
            state.tunnel,
            self.paths.len(),
            state.attachments,
            Fastpath::from(state.fastpath).as_str(),
            config.bpffs,
        );
        if state.tunnel == Ipv4Be::UNSPECIFIED {
            tracing::warn!(
                "no node.tunnel_address: this host itself talks to remote pods from its node \
                 address, and their answers will not come through the tunnel"
            );
        }
        let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward");
        if forwarding.is_ok_and(|value| value.trim() == "0") {
            tracing::warn!(
                "net.ipv4.ip_forward is 0, so the kernel forwards nothing to or from pods; run \
                 `sysctl -w net.ipv4.ip_forward=1`"
            );
        }
    }

    /// Writes down how the sources are, if that has changed.
    pub(super) fn tell_status(&mut self) {
        let table = self.sources.table();
        let status = SourcesStatus::new(self.sources.status(), table.alarms().values());
        if status == self.told {
            return;
        }
        for alarm in status.alarms.iter().filter(|alarm| !self.told.alarms.contains(alarm)) {
            tracing::error!("{alarm}");
        }
        match status.write(&self.pins) {
            Ok(()) => self.told = status,
            Err(error) => tracing::warn!("`tunless status` cannot tell of sources: {error:#}"),
        }
    }
}
