//! Every program on every kind of packet.
//!
//! One binary, so that [`prog_coverage`] sees all tables and can tell which
//! reason has no case.

mod prog_budget;
mod prog_cost;
mod prog_coverage;
mod prog_decap_tc;
mod prog_decap_tc_leased;
mod prog_decap_xdp;
mod prog_encap_host;
mod prog_encap_host_leased;
mod prog_encap_pod;
mod prog_encap_pod_leased;
mod prog_encap_tunl0;
mod prog_fuzz;
mod prog_grant_decap;
mod prog_live;
mod prog_live_leased;
mod prog_load;
mod prog_routes;
