//! The members of the cluster, by the addresses that they give to clients.
//!
//! An endpoint of the file may be a Service or a load balancer. What serves behind it is in etcd's own
//! list of members.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, timeout};

use super::{Member, connect::ANSWER};
use crate::sources::servers::{Servers, host_of};

/// The pause between two questions, before chance makes it up to twice as long.
const AGAIN: Duration = Duration::from_secs(300);

/// Looks them up, and reports them; returns when to do that again. Without an answer, those that were
/// known go on to count: a user who may read keys need not be allowed to ask for this.
pub async fn look_up(member: &Member, known: &mut Servers) -> Instant {
    match timeout(ANSWER, member.client.clone().member_list()).await {
        Ok(Ok(answer)) => {
            let members = answer.members().iter();
            let urls = members.flat_map(etcd_client::Member::client_urls);
            let hosts: BTreeSet<String> =
                urls.filter_map(|url| host_of(url)).map(str::to_owned).collect();
            known.look_up(hosts).await;
        }
        Ok(Err(error)) => tracing::debug!("{}: its members: {error}", member.endpoint),
        Err(_) => tracing::debug!("{}: its members: no answer", member.endpoint),
    }
    Instant::now() + AGAIN.mul_f64(1.0 + fastrand::f64())
}
