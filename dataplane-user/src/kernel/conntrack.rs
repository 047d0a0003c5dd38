//! What conntrack knows about single flows (`net/netfilter/nf_conntrack_netlink.c`).

use std::net::IpAddr;

use anyhow::Result;
use dataplane_common::Flow;
use futures::StreamExt as _;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple},
};
use rtnetlink::{
    proto::{ConnectionHandle, new_connection},
    sys::{SocketAddr, protocols::NETLINK_NETFILTER},
};

/// A connection for questions to conntrack.
#[derive(Clone)]
pub struct Conntrack(ConnectionHandle<NetfilterMessage>);

/// The status bits of an entry (`enum ip_conntrack_status`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tracked(pub u32);

impl Conntrack {
    /// Connects; `None` if the kernel has no nfnetlink.
    pub fn connect() -> Option<Self> {
        let (connection, handle, _) = new_connection(NETLINK_NETFILTER).ok()?;
        tokio::spawn(connection);
        Some(Self(handle))
    }

    /// Returns the entry of a flow as it is on the wire, whichever of its ends began; `None`: there is none.
    ///
    /// # Errors
    /// If the kernel refuses the question: most often it has no `nf_conntrack_netlink`.
    pub async fn find(&self, flow: &Flow) -> Result<Option<Tracked>> {
        // On the wire a flow bears what conntrack makes of it: the answer's addresses, exchanged.
        for asked in [flow.reverse(), *flow] {
            let found = self.ask(&asked).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    async fn ask(&self, flow: &Flow) -> Result<Option<Tracked>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        let question = NetfilterMessage::new(
            NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0),
            ConntrackMessage::Get(vec![ConntrackAttribute::CtaTupleOrig(tuple(flow))]),
        );
        let request = NetlinkMessage::new(header, NetlinkPayload::from(question));
        let mut answers = std::pin::pin!(self.0.request(request, SocketAddr::new(0, 0))?);
        while let Some(message) = answers.next().await {
            match message.payload {
                NetlinkPayload::InnerMessage(message) => {
                    if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(entry)) =
                        message.inner
                    {
                        return Ok(status(&entry));
                    }
                }
                NetlinkPayload::Error(error) => {
                    let error = error.to_io();
                    return match error.raw_os_error() {
                        Some(libc::ENOENT) => Ok(None),
                        _ => Err(error.into()),
                    };
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

fn tuple(flow: &Flow) -> Vec<Tuple> {
    let (from, to) = flow.ends();
    vec![
        Tuple::Ip(vec![
            IPTuple::SourceAddress(IpAddr::V4(*from.ip())),
            IPTuple::DestinationAddress(IpAddr::V4(*to.ip())),
        ]),
        Tuple::Proto(vec![
            ProtoTuple::Protocol(Protocol::from(flow.protocol)),
            ProtoTuple::SourcePort(from.port()),
            ProtoTuple::DestinationPort(to.port()),
        ]),
    ]
}

fn status(entry: &[ConntrackAttribute]) -> Option<Tracked> {
    entry.iter().find_map(|attribute| match attribute {
        ConntrackAttribute::CtaStatus(status) => Some(Tracked(status.bits())),
        _ => None,
    })
}
