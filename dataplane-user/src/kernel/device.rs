//! The tunnel device: where the stack hands us packets for remote pods and gets
//! unwrapped ones back.
//!
//! It plays tunl0's part, so that `rp_filter`, `src`, MASQUERADE and `-i` rules
//! behave as with tunl0. It is a veth pair without ARP: [`TUNNEL`] has the
//! routes and the program on its egress. What gets past a missing program
//! arrives at [`TUNNEL_PEER`] with another interface's MAC and is dropped there
//! (`PACKET_OTHERHOST`): nothing plain ever reaches the wire.

use std::{fs, net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result, bail};
use dataplane_common::{IfIndex, Mtu};
use ipnet::Ipv4Net;
use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use rtnetlink::{AddressMessageBuilder, LinkUnspec, LinkVeth};

use super::{Host, Kernel, Link, errno, explain};
use crate::container::sysctl;

/// The tunnel device's name.
pub const TUNNEL: &str = "tunless0";
/// The name of its other end.
pub const TUNNEL_PEER: &str = "tunless0-peer";

/// Says whose the device is: the instance's that has these pins. One without it
/// is not ours to touch.
fn alias(pins: &Path) -> String {
    format!("tunless {}", pins.display())
}

/// Whether a tunnel device belongs to the instance that has these pins.
#[must_use]
pub fn is_tunnel_of(link: &Link, pins: &Path) -> bool {
    link.alias == Some(alias(pins))
}

/// The directory of pins of the instance that a tunnel device belongs to; `None` if tunless did
/// not make it.
#[must_use]
pub fn tunnel_owner(link: &Link) -> Option<&Path> {
    link.alias.as_deref()?.strip_prefix("tunless ").map(Path::new)
}

/// How the tunnel device should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelDevice {
    /// Its MTU, bytes.
    pub mtu: Mtu,
    /// Its address; `None`: it has none.
    pub address: Option<Ipv4Addr>,
    /// Whether it takes packets from sources that other interfaces lead to (`rp_filter` 2), as
    /// pods have whose routes Felix has just moved to tunl0.
    pub is_loose: bool,
}

impl Kernel {
    /// Makes the device, or mends what differs. Returns whether anything changed.
    ///
    /// # Errors
    /// If a device of that name is not ours, or the kernel refuses.
    pub async fn ensure_tunnel(
        &self,
        host: &Host,
        wanted: TunnelDevice,
        pins: &Path,
    ) -> Result<bool> {
        let Some((ifindex, link)) = host.link(TUNNEL) else {
            self.create_tunnel(wanted, &alias(pins))
                .await
                .with_context(|| format!("making {TUNNEL}"))?;
            return Ok(true);
        };
        match &link.alias {
            Some(owner) if *owner == alias(pins) => {}
            // A daemon was killed between making it and saying whose it is.
            None if is_unfinished(host, ifindex, link) => {
                self.finish_tunnel(host, wanted, &alias(pins))
                    .await
                    .with_context(|| format!("finishing {TUNNEL}"))?;
                return Ok(true);
            }
            Some(owner) if owner.starts_with("tunless ") => bail!(
                "the interface {TUNNEL} belongs to another instance of tunless here ({owner}); \
                 detach that one first: `tunless detach --bpffs {}`",
                owner.trim_start_matches("tunless ")
            ),
            _ => bail!(
                "there is an interface {TUNNEL} that tunless did not make; rename or remove it \
                 (`ip link show {TUNNEL}`)"
            ),
        }
        let mut changed = false;
        if link.mtu != wanted.mtu || !link.is_up || link.does_arp {
            self.set_up(ifindex, wanted.mtu).await.with_context(|| format!("mending {TUNNEL}"))?;
            changed = true;
        }
        if let Some((peer, link)) = host.link(TUNNEL_PEER)
            && (!link.is_up || link.does_arp || link.mtu != wanted.mtu)
        {
            self.set_up(peer, wanted.mtu)
                .await
                .with_context(|| format!("mending {TUNNEL_PEER}"))?;
            changed = true;
        }
        isolate_peer();
        set_rp_filter(wanted.is_loose);
        Ok(changed | self.add_address(host, ifindex, wanted.address).await?)
    }

    /// Removes the device, its other end and, by the kernel, its addresses and
    /// routes. Returns whether there was one of ours.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn delete_tunnel(&self, host: &Host, pins: &Path) -> Result<bool> {
        match host.link(TUNNEL) {
            Some((ifindex, link)) if is_tunnel_of(link, pins) => {
                self.handle
                    .link()
                    .del(ifindex.0)
                    .execute()
                    .await
                    .map_err(explain)
                    .with_context(|| format!("removing {TUNNEL}"))?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Marks the device and its other end as those of the instance with these pins.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn claim_tunnel(&self, host: &Host, pins: &Path) -> Result<()> {
        for name in [TUNNEL, TUNNEL_PEER] {
            let Some((ifindex, _)) = host.link(name) else { continue };
            let message = LinkUnspec::new_with_index(ifindex.0).alias(alias(pins)).build();
            let outcome = self.handle.link().set(message).execute().await.map_err(explain);
            outcome.with_context(|| format!("marking {name} as ours"))?;
        }
        Ok(())
    }

    async fn create_tunnel(&self, wanted: TunnelDevice, alias: &str) -> Result<()> {
        let request = LinkVeth::new(TUNNEL, TUNNEL_PEER).build();
        self.handle.link().add(request).execute().await.map_err(explain)?;
        let host = self.look().await?;
        self.finish_tunnel(&host, wanted, alias).await
    }

    async fn finish_tunnel(&self, host: &Host, wanted: TunnelDevice, alias: &str) -> Result<()> {
        let find = |name| host.link(name).map(|(index, _)| index).context("it vanished at once");
        let (tunnel, peer) = (find(TUNNEL)?, find(TUNNEL_PEER)?);
        for ifindex in [tunnel, peer] {
            let message = LinkUnspec::new_with_index(ifindex.0).alias(alias).build();
            self.handle.link().set(message).execute().await.map_err(explain)?;
            // IPv6 would send router solicitations into the tunnel. A kernel or
            // namespace without it refuses, and needs it not.
            let no_ipv6 = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
                AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
            ])]);
            let message =
                LinkUnspec::new_with_index(ifindex.0).append_extra_attribute(no_ipv6).build();
            if let Err(error) = self.handle.link().set(message).execute().await {
                tracing::debug!("{TUNNEL}: no IPv6 to turn off: {:#}", explain(error));
            }
            self.set_up(ifindex, wanted.mtu).await?;
        }
        self.add_address(host, tunnel, wanted.address).await?;
        set_rp_filter(wanted.is_loose);
        Ok(())
    }

    async fn set_up(&self, ifindex: IfIndex, mtu: Mtu) -> Result<()> {
        let message = LinkUnspec::new_with_index(ifindex.0).mtu(mtu.0).arp(false).up().build();
        self.handle.link().set(message).execute().await.map_err(explain)
    }

    async fn add_address(
        &self,
        host: &Host,
        ifindex: IfIndex,
        wanted: Option<Ipv4Addr>,
    ) -> Result<bool> {
        let Some(address) = wanted else { return Ok(false) };
        if addresses(host, ifindex).any(|net| net.addr() == address) {
            return Ok(false);
        }
        self.handle
            .address()
            .add(ifindex.0, address.into(), 32)
            .execute()
            .await
            .map_err(explain)
            .with_context(|| format!("giving {TUNNEL} the address {address}"))?;
        Ok(true)
    }

    /// Takes addresses from the device that it should not have (any more). Only
    /// after the routes name another source: with an address the kernel removes
    /// every route that has it as `src`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn trim_addresses(
        &self,
        host: &Host,
        ifindex: IfIndex,
        wanted: Option<Ipv4Addr>,
    ) -> Result<()> {
        for net in addresses(host, ifindex).filter(|net| Some(net.addr()) != wanted) {
            let message = AddressMessageBuilder::<Ipv4Addr>::new()
                .index(ifindex.0)
                .address(net.addr(), net.prefix_len())
                .build();
            match self.handle.address().del(message).execute().await {
                Err(error) if errno(&error) != Some(libc::EADDRNOTAVAIL) => {
                    return Err(explain(error))
                        .with_context(|| format!("taking the address {net} from {TUNNEL}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn addresses(host: &Host, ifindex: IfIndex) -> impl Iterator<Item = Ipv4Net> {
    host.addresses.iter().filter(move |(owner, _)| *owner == ifindex).map(|(_, net)| *net)
}

/// As it is right after it was made, and as nobody would leave one of his own.
fn is_unfinished(host: &Host, ifindex: IfIndex, link: &Link) -> bool {
    link.kind.as_deref() == Some("veth")
        && !link.is_up
        && host.link(TUNNEL_PEER).is_some()
        && addresses(host, ifindex).next().is_none()
}

/// Sets the tunnel device's own `rp_filter`; of this and that of `all` the greater counts
/// (`net/ipv4/fib_frontend.c`, `IN_DEV_RPFILTER`).
fn set_rp_filter(is_loose: bool) {
    const LOOSE: &str = "2";
    let path = |name: &str| sysctl(&format!("ipv4/conf/{name}/rp_filter"));
    let read = |name: &str| fs::read_to_string(path(name)).map(|value| value.trim().to_owned());
    let (Ok(value), Ok(default)) = (read(TUNNEL), read("default")) else { return };
    let wanted = match (is_loose, value.as_str()) {
        (true, _) => LOOSE,
        // Loose by our own doing; what an administrator has set otherwise stays.
        (false, LOOSE) => default.as_str(),
        (false, value) => value,
    };
    if value != wanted
        && let Err(error) = fs::write(path(TUNNEL), wanted)
    {
        tracing::debug!("{}: {error}", path(TUNNEL).display());
    }
}

/// What reaches the other end goes no further, even if it were addressed to it.
/// `sysctl net.ipv4.ip_forward=1` sets this for every interface, so it is
/// looked at each time.
fn isolate_peer() {
    let forwarding = sysctl(&format!("ipv4/conf/{TUNNEL_PEER}/forwarding"));
    if fs::read_to_string(&forwarding).is_ok_and(|value| value.trim() == "0") {
        return;
    }
    if let Err(error) = fs::write(&forwarding, "0") {
        tracing::debug!("{}: {error}", forwarding.display());
    }
}
