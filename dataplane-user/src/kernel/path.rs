//! The way to a node, as the kernel would send.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use dataplane_common::{IfIndex, Mtu};
use futures::TryStreamExt as _;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::RouteMessageBuilder;

use super::{Kernel, errno, explain, snapshot};

/// The way to a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    /// Out of which interface.
    pub ifindex: IfIndex,
    /// The neighbour to send to: the gateway, or the node itself.
    pub next_hop: Ipv4Addr,
    /// The source that was asked for, else the one that the kernel would choose.
    pub source: Option<Ipv4Addr>,
    /// The route's MTU or the path MTU learnt so far, bytes; `None`: the interface's.
    pub mtu: Option<Mtu>,
    /// Whether `mtu` was learnt from an ICMP message and expires.
    pub is_learnt: bool,
}

impl Kernel {
    /// Returns what `ip route get NODE from SOURCE` shows; `None` if there is no way. Rules that
    /// look at the source choose by it. Without one the kernel chooses the source as well.
    ///
    /// # Errors
    /// If the kernel could not answer: that says nothing about the way.
    pub async fn path(&self, node: Ipv4Addr, source: Option<Ipv4Addr>) -> Result<Option<Path>> {
        let mut to = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(node, 32);
        if let Some(source) = source {
            to = to.source_prefix(source, 32);
        }
        let mut request = self.handle.route().get(to.build());
        request.message_mut().header.table = 0;
        let mut answers = std::pin::pin!(request.execute());
        let message = match answers.try_next().await {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(None),
            Err(error) if is_no_way(&error) => return Ok(None),
            Err(error) => {
                return Err(explain(error)).with_context(|| format!("asking the way to {node}"));
            }
        };
        let path = read(&message, node, source);
        Ok((!path.ifindex.is_none()).then_some(path))
    }

    /// Returns where the kernel would send a packet that came in by `interface`: what
    /// `ip route get DESTINATION from SOURCE iif INTERFACE` shows. It looks at the source, too.
    ///
    /// # Errors
    /// If the kernel could not answer: that says nothing about the way.
    pub async fn forward(
        &self,
        destination: Ipv4Addr,
        source: Ipv4Addr,
        interface: IfIndex,
    ) -> Result<Result<Forward, Refused>> {
        let to = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(destination, 32)
            .source_prefix(source, 32)
            .input_interface(interface.0);
        let mut request = self.handle.route().get(to.build());
        request.message_mut().header.table = 0;
        let mut answers = std::pin::pin!(request.execute());
        match answers.try_next().await {
            Ok(Some(message)) => Ok(Ok(Forward {
                path: read(&message, destination, Some(source)),
                is_for_host: message.header.kind == RouteType::Local,
            })),
            Ok(None) => Ok(Err(Refused(libc::ENETUNREACH))),
            Err(error) => match errno(&error) {
                Some(number) if number == libc::EXDEV || is_no_way(&error) => {
                    Ok(Err(Refused(number)))
                }
                _ => {
                    Err(explain(error)).with_context(|| format!("asking the way to {destination}"))
                }
            },
        }
    }
}

/// Where a packet goes that came in by an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forward {
    /// The way there.
    pub path: Path,
    /// It ends here.
    pub is_for_host: bool,
}

/// Why there is no way for such a packet: an error number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused(pub i32);

impl Refused {
    /// For people.
    #[must_use]
    pub fn text(self) -> String {
        match self.0 {
            // Which of both depends on the kernel (`net/ipv4/fib_frontend.c`, `__fib_validate_source`).
            libc::EXDEV | libc::EINVAL => {
                "drops it: rp_filter, or a source that cannot be, forbids this source there"
                    .to_owned()
            }
            libc::ENETUNREACH | libc::EHOSTUNREACH => "has no route for it".to_owned(),
            number => format!("does not route it: {}", std::io::Error::from_raw_os_error(number)),
        }
    }
}

fn read(message: &RouteMessage, to: Ipv4Addr, source: Option<Ipv4Addr>) -> Path {
    let mut path =
        Path { ifindex: IfIndex::NONE, next_hop: to, source, mtu: None, is_learnt: false };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(ifindex) => path.ifindex = IfIndex(*ifindex),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => path.next_hop = *address,
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => {
                path.source = Some(*address);
            }
            RouteAttribute::CacheInfo(info) => path.is_learnt = info.expires != 0,
            RouteAttribute::Metrics(metrics) => path.mtu = snapshot::mtu(metrics),
            _ => {}
        }
    }
    path
}

/// No route, or one of the types unreachable, prohibit and blackhole.
fn is_no_way(error: &rtnetlink::Error) -> bool {
    let no_way = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL];
    errno(error).is_some_and(|number| no_way.contains(&number))
}
