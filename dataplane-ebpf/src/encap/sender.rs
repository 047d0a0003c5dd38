//! Is the source the pod of this very interface?

use aya_ebpf::programs::TcContext;
use dataplane_common::Reason;

use super::inner::Inner;
use crate::{maps, skb};

/// The fast path skips Felix's rpfilter, so it must not carry a pod that uses
/// its neighbour's address.
#[inline(always)]
pub fn owns_source(ctx: &TcContext, inner: &Inner) -> Result<(), Reason> {
    match maps::endpoint(inner.header.source()) {
        Some(endpoint) if endpoint.hop.ifindex == skb::ifindex(ctx) => Ok(()),
        _ => Err(Reason::PodForgedSource),
    }
}
