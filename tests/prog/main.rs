//! Every program on every kind of packet.
//!
//! One binary, so that [`coverage`] sees all tables and can tell which reason has no case.

mod budget;
mod cost;
mod coverage;
mod daemon_dead;
mod decap_beside_tunl0;
mod decap_tc;
mod decap_tc_leased;
mod decap_xdp;
mod encap_host;
mod encap_host_leased;
mod encap_pod;
mod encap_pod_leased;
mod encap_tunl0;
mod fuzz;
mod grant_decap;
mod listing;
mod live;
mod live_leased;
mod load;
mod routes;
mod services;
mod shadow;
mod tried;
mod unanswered;
