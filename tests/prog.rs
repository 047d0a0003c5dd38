//! Every program on every kind of packet.
//!
//! One binary, so that [`prog_coverage`] sees all tables and can tell which
//! reason has no case.

mod prog_encap_pod;
