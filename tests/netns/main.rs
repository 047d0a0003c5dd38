//! Nodes in network namespaces, with the release build of tunless.
//!
//! One binary: it is linked once, and while one case waits for something, others run.
//!
//! | about | modules |
//! |---|---|
//! | Packets between two nodes | [`traffic`], [`frames`], [`size`], [`mtu`], [`handover`], [`errors`], [`spoof`], [`safety`], [`service`], [`regressions`] |
//! | Leases | [`leases`], [`lease_policy`], [`lease_services`], [`services`], [`services_traps`], [`services_floods`], [`services_shapes`], [`services_withheld`], [`lease_traps`], [`lease_life`], [`lease_load`], [`lease_config`], [`qos`], [`watchers`], [`flowtable`], [`lease_conntrack`], [`unanswered`] |
//! | Where routes come from | [`sources`], [`bird`], [`source_bird`], [`source_etcd`], [`source_kubernetes`], [`own_node`], [`source_scale`] |
//! | The daemon's life | [`daemon`], [`restart`], [`upgrade`], [`bad_pins`], [`reload`], [`config`], [`underlay`], [`pods`], [`attach`], [`attempt`], [`shadow`] |
//! | What an operator sees | [`cli`], [`cli_lists`], [`schemas`], [`here`], [`top`], [`explain`], [`lease_cli`], [`problems`], [`journal`], [`metrics`], [`http`] |
//! | The host around it | [`host_links`], [`host_shapes`], [`host_ipsec`], [`outer_rules`], [`security`], [`packaging`], [`package`], [`image`], [`systemd`], [`systemd_problems`] |

mod attach;
mod attempt;
mod bad_pins;
mod bird;
mod cli;
mod cli_lists;
mod config;
mod daemon;
mod doctor;
mod doctor_hooks;
mod doctor_peer;
mod errors;
mod explain;
mod flowtable;
mod frames;
mod handover;
mod here;
mod host_ipsec;
mod host_links;
mod host_shapes;
mod http;
mod image;
mod journal;
mod lease_cli;
mod lease_config;
mod lease_conntrack;
mod lease_ends;
mod lease_life;
mod lease_load;
mod lease_policy;
mod lease_services;
mod lease_traps;
mod leases;
mod metrics;
mod mtu;
mod nodes;
mod outer_rules;
mod own_node;
mod package;
mod packaging;
mod pods;
mod problems;
mod qos;
mod regressions;
mod reload;
mod restart;
mod safety;
mod schemas;
mod security;
mod service;
mod services;
mod services_floods;
mod services_shapes;
mod services_traps;
mod services_withheld;
mod shadow;
mod size;
mod source_bird;
mod source_etcd;
mod source_kubernetes;
mod source_scale;
mod sources;
mod spoof;
mod spread;
mod systemd;
mod systemd_problems;
mod top;
mod trace;
mod traffic;
mod unanswered;
mod underlay;
mod upgrade;
mod watchers;
