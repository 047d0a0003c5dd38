//! Support for the packet tables in `prog_*.rs`.
//!
//! | module | has |
//! |---|---|
//! | [`packet`] | a fluent builder of frames |
//! | [`world`] | the addresses and map entries all tables share |
//! | [`run`] | a program, what one run of it gets and what it leaves |
//! | [`prog`] | the object in the kernel: runs, counters |
//! | [`case`] | a row of a table, and the runner |
//! | [`faults`] | what can be wrong with a packet, and in which order it is found |
//! | [`cost`] | what a run of each program takes |
//! | [`decap`] | frames both tables of decapsulation are about |
//! | [`idle`] | what a test run takes by itself |
//! | [`live`] | the programs attached, for what a test run cannot show |
//! | [`model`] | what the programs ought to do, written from the design |
//! | [`fuzz`] | random frames |
//! | [`bird`] | the source `bird` by itself |
//! | [`route_source`] | each source of routes in a lab: there, silent, down |
//! | [`places`] | places of flows that get no answer |
//! | [`netns`], [`wire`] | a namespace with interfaces, raw sockets on them |
//! | [`capabilities`] | less than root |
//! | [`test_run`] | `BPF_PROG_TEST_RUN` itself |
//! | [`trampoline`] | `tc_index` for test runs |
//! | [`hex`] | frames side by side |

#[path = "support/bird.rs"]
pub mod bird;
#[path = "support/capabilities.rs"]
pub mod capabilities;
#[path = "support/case/mod.rs"]
pub mod case;
#[path = "support/cost/mod.rs"]
pub mod cost;
#[path = "support/decap.rs"]
pub mod decap;
#[path = "support/faults.rs"]
pub mod faults;
#[path = "support/fuzz.rs"]
pub mod fuzz;
#[path = "support/hex.rs"]
pub mod hex;
#[path = "support/idle.rs"]
pub mod idle;
#[path = "support/live.rs"]
pub mod live;
#[path = "support/model/mod.rs"]
pub mod model;
#[path = "support/netns.rs"]
pub mod netns;
#[path = "support/packet.rs"]
pub mod packet;
#[path = "support/places.rs"]
pub mod places;
#[path = "support/prog.rs"]
pub mod prog;
#[path = "support/route_source.rs"]
pub mod route_source;
#[path = "support/run.rs"]
pub mod run;
#[path = "support/scene.rs"]
pub mod scene;
#[path = "support/signed.rs"]
pub mod signed;
#[path = "support/test_run.rs"]
pub mod test_run;
#[path = "support/trampoline.rs"]
pub mod trampoline;
#[path = "support/wire.rs"]
pub mod wire;
#[path = "support/world.rs"]
pub mod world;
