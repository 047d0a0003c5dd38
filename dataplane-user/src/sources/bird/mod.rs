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
mod stamped;

use std::time::Duration;

use self::follow::Follower;
use super::{
    Me, Reporter,
    error::SourceError,
    feed::{self, Afterwards, Pace},
};
use crate::config::BirdConfig;

type Result<T> = std::result::Result<T, SourceError>;

/// Reads BIRD's table and follows it until it is dropped.
pub async fn run(config: BirdConfig, me: Me, reporter: Reporter) {
    // BIRD may be back in a moment, and an attempt costs one system call.
    let pause = Duration::from_millis(config.poll_milliseconds);
    let pace = Pace {
        first: pause,
        longest: pause,
        endpoints: 1,
        // A closed control socket means that BIRD has stopped.
        afterwards: Afterwards::Down,
    };
    feed::run(Follower::new(config, me, reporter), pace).await;
}
