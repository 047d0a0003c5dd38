//! xfrm (IPsec) policies: what the kernel's own output and input path would do with our outer
//! packets (`net/xfrm/xfrm_policy.c`). The programs send below it and take in before it.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_xfrm::{
    XfrmAttrs, XfrmMessage,
    constants::{
        XFRM_POLICY_ALLOW, XFRM_POLICY_IN, XFRM_POLICY_OUT, XFRM_POLICY_TYPE_MAIN,
        XFRM_USERPOLICY_BLOCK,
    },
    policy::{DefaultMessage, DelGetMessage, ModifyMessage},
};
use rtnetlink::{
    proto::{ConnectionHandle, new_connection},
    sys::{SocketAddr, protocols::NETLINK_XFRM},
};

/// Which packets a policy is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PolicyDirection {
    /// Those that this host receives.
    In,
    /// Those that it sends.
    Out,
}

/// An xfrm policy for IPv4 packets without ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Received or sent packets.
    pub direction: PolicyDirection,
    /// Their source.
    pub source: Ipv4Net,
    /// Their destination.
    pub destination: Ipv4Net,
    /// Their IP protocol; 0: any.
    pub protocol: u8,
    /// Of several policies that match, the one with the lowest counts.
    pub priority: u32,
    /// It lets packets pass as they are: it allows them and asks for no ESP or AH.
    pub is_plain: bool,
    /// Which marks packets must have.
    pub mark: PolicyMark,
    /// The xfrm interface by which they come or go (`if_id`); 0: any other link.
    pub if_id: u32,
    /// It asks for more than this: an interface (`dev`) or a security context; or it is a sub-policy
    /// (`ptype sub`), after which a main policy counts as well.
    pub asks_more: bool,
    /// What counts for packets without a policy (`ip xfrm policy setdefault`).
    pub is_default: bool,
}

/// The marks of a policy: those that are `value` in the bits of `mask`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PolicyMark {
    /// What the bits are.
    pub value: u32,
    /// The bits that count.
    pub mask: u32,
}

/// A connection for requests to xfrm; a kernel without it has none.
#[derive(Clone)]
pub struct Xfrm(ConnectionHandle<XfrmMessage>);

impl Xfrm {
    /// Connects; `None` if the kernel has no xfrm.
    pub fn connect() -> Option<Self> {
        let (connection, handle, _) = new_connection(NETLINK_XFRM).ok()?;
        tokio::spawn(connection);
        Some(Self(handle))
    }

    /// Returns the policies in the kernel's order, at last what counts without one.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn policies(&mut self) -> Result<Vec<Policy>> {
        let mut policies = self.listed().await?;
        policies.extend(self.defaults().await?);
        Ok(policies)
    }

    async fn listed(&mut self) -> Result<Vec<Policy>> {
        let mut request = NetlinkMessage::from(XfrmMessage::GetPolicy(DelGetMessage::default()));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut answers = std::pin::pin!(
            self.0.request(request, SocketAddr::new(0, 0)).context("asking for xfrm policies")?
        );
        let mut policies = Vec::new();
        while let Some(message) = answers.next().await {
            match message.payload {
                NetlinkPayload::InnerMessage(XfrmMessage::AddPolicy(message)) => {
                    policies.extend(policy(&message));
                }
                NetlinkPayload::Error(error) => {
                    return Err(error.to_io()).context("reading xfrm policies");
                }
                _ => {}
            }
        }
        Ok(policies)
    }

    /// Returns what forbids packets for which there is no policy, by direction.
    async fn defaults(&mut self) -> Result<Vec<Policy>> {
        let asking = XfrmMessage::GetPolicyDefault(DefaultMessage::default());
        let mut request = NetlinkMessage::from(asking);
        request.header.flags = NLM_F_REQUEST;
        let mut answers = std::pin::pin!(
            self.0
                .request(request, SocketAddr::new(0, 0))
                .context("asking for the default of xfrm policies")?
        );
        let mut defaults = Vec::new();
        while let Some(message) = answers.next().await {
            // Kernels before 5.15 refuse: there packets without a policy pass.
            let NetlinkPayload::InnerMessage(XfrmMessage::GetPolicyDefault(found)) =
                message.payload
            else {
                continue;
            };
            let DefaultMessage { user_policy: found } = found;
            for (direction, action) in
                [(PolicyDirection::In, found.input), (PolicyDirection::Out, found.output)]
            {
                let blocks = action == XFRM_USERPOLICY_BLOCK;
                defaults.extend(blocks.then(|| Policy::blocking_by_default(direction)));
            }
        }
        Ok(defaults)
    }
}

impl Policy {
    /// Returns what `ip xfrm policy setdefault` makes of a direction: all other policies come first.
    #[must_use]
    pub fn blocking_by_default(direction: PolicyDirection) -> Self {
        Self {
            direction,
            source: Ipv4Net::default(),
            destination: Ipv4Net::default(),
            protocol: 0,
            priority: u32::MAX,
            is_plain: false,
            mark: PolicyMark::default(),
            if_id: 0,
            asks_more: false,
            is_default: true,
        }
    }
}

/// Reads a policy; `None` if it cannot be about our outer packets.
fn policy(message: &ModifyMessage) -> Option<Policy> {
    let info = &message.user_policy_info;
    let selector = &info.selector;
    let direction = match info.direction {
        XFRM_POLICY_IN => PolicyDirection::In,
        XFRM_POLICY_OUT => PolicyDirection::Out,
        _ => return None,
    };
    // A policy without addresses says no family.
    let is_ipv4 = [0, libc::AF_INET as u16].contains(&selector.family);
    // IPIP has no ports.
    let has_ports = selector.sport_mask != 0 || selector.dport_mask != 0;
    let mut is_plain = info.action == XFRM_POLICY_ALLOW;
    let (mut mark, mut if_id, mut asks_more) = (PolicyMark::default(), 0, selector.ifindex != 0);
    for attribute in &message.nlas {
        match attribute {
            // Optional ones count as well: what they would encrypt is not to leave plain.
            XfrmAttrs::Template(templates) => is_plain &= templates.is_empty(),
            XfrmAttrs::IfId(id) => if_id = *id,
            XfrmAttrs::Mark(it) => mark = PolicyMark { value: it.value, mask: it.mask },
            XfrmAttrs::SecurityContext(_) => asks_more = true,
            XfrmAttrs::PolicyType(it) => asks_more |= it.ptype != XFRM_POLICY_TYPE_MAIN,
            _ => {}
        }
    }
    let net = |address: Ipv4Addr, length: u8| Ipv4Net::new(address, length).ok();
    (is_ipv4 && !has_ports).then_some(Policy {
        direction,
        source: net(selector.saddr.to_ipv4(), selector.prefixlen_s)?,
        destination: net(selector.daddr.to_ipv4(), selector.prefixlen_d)?,
        protocol: selector.proto,
        priority: info.priority,
        is_plain,
        mark,
        if_id,
        asks_more,
        is_default: false,
    })
}
