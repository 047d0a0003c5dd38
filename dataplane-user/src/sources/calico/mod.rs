//! Calico's data model, whatever datastore it is kept in: IPAM blocks are the
//! truth, nodes give addresses, pools say how packets travel.
//!
//! | module | parses or decides |
//! |---|---|
//! | [`block`] | who carries a block, and who borrows from it |
//! | [`node`] | a node's address and subnet |
//! | [`pool`] | how packets to a pool's addresses travel |
//! | [`affinity`] | what the older owner of the truth says, as a cross-check |
//! | `json` | what the parsers have in common |
//! | [`resolver`] | claims, from all of these |

pub mod affinity;
#[cfg(test)]
mod as_libcalico;
pub mod block;
mod json;
pub mod node;
pub mod pool;
pub mod resolver;

pub use self::{
    affinity::Affinity,
    block::Block,
    json::{Doubts, Understood, text},
    node::CalicoNode,
    pool::Pool,
    resolver::{Aspect, Resolver},
};
