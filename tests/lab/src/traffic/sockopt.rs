//! Socket options that neither std nor socket2 sets.

use std::os::fd::AsFd;

use anyhow::{Context as _, Result};
use nix::{
    getsockopt_impl, libc, setsockopt_impl, sockopt_impl,
    sys::socket::{setsockopt, sockopt::RcvBufForce},
};

sockopt_impl!(
    /// `IP_MTU_DISCOVER`: whether datagrams carry DF.
    IpMtuDiscover,
    Both,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int
);

sockopt_impl!(
    /// `SO_NO_CHECK`: datagrams carry no checksum.
    NoCheck,
    SetOnly,
    libc::SOL_SOCKET,
    libc::SO_NO_CHECK,
    bool
);

/// Lets datagrams carry no checksum (RFC 768: 0).
pub(crate) fn set_no_checksum(socket: &impl AsFd) -> Result<()> {
    setsockopt(socket, NoCheck, &true).context("cannot set SO_NO_CHECK")
}

/// Sets or clears DF on what the socket sends. Set, the kernel refuses what
/// exceeds the path MTU it knows; clear, it fragments.
pub(crate) fn set_df(socket: &impl AsFd, df: bool) -> Result<()> {
    let value = if df { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
    setsockopt(socket, IpMtuDiscover, &value).context("cannot set IP_MTU_DISCOVER")
}

/// A receive buffer that holds what a busy machine lets pile up, whatever
/// `rmem_max` says.
pub(crate) fn set_receive_buffer(socket: &impl AsFd, bytes: usize) -> Result<()> {
    setsockopt(socket, RcvBufForce, &bytes).context("cannot set SO_RCVBUFFORCE")
}
