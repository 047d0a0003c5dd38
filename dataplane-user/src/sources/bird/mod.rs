//! BIRD's routing table, read by its control socket: `bgp_next_hop` is the node.
//!
//! The kernel's routes would say the router's address where BIRD resolves next
//! hops recursively; why it is not BIRD's filters that mend it, ADR 5 says.
//!
//! Every poll asks for the sessions' counters (O(sessions)); only when they are
//! others, and once a minute, the table is fetched. What BIRD no longer has is
//! gone, but for the times when it cannot know: while it stops, and after its
//! start until its sessions are up and quiet. Then only what is new counts.

mod client;
mod follow;
mod health;
mod reply;
mod routes;

use tokio::time::{Duration, sleep};

use self::follow::Follower;
use super::{Me, Reporter, error::SourceError};
use crate::config::BirdConfig;

type Result<T> = std::result::Result<T, SourceError>;

/// Reads BIRD's table and follows it, for ever.
pub async fn run(config: BirdConfig, me: Me, reporter: Reporter) {
    let pause = Duration::from_millis(config.poll_milliseconds);
    let mut follower = Follower::new(config, me, reporter);
    loop {
        follower.follow().await;
        // BIRD may be back in a moment, and to ask costs a system call.
        sleep(pause).await;
    }
}
