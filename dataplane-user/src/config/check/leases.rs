//! What cannot be said of leases.

use super::Problem;
use crate::config::LeasesConfig;

/// How long a lease may be, seconds. Conntrack forgets a closed connection after
/// ten (`nf_conntrack_tcp_timeout_close`).
const SECONDS: std::ops::RangeInclusive<u32> = 1..=9;
/// How many there may be: fewer is no use, and each takes about 140 bytes.
const SIZE: std::ops::RangeInclusive<u32> = 1024..=16_777_216;
/// Bits of `skb->mark` that are others', and whose.
const TAKEN: [(u32, &str); 2] = [(0xffff_0000, "Calico's"), (0xc000, "kube-proxy's")];

pub fn check(leases: &LeasesConfig, problems: &mut Vec<Problem>) {
    let mut refuse = |key: &'static str, what: String, remedy: String| {
        problems.push(Problem::new(["leases".into(), key.into()], what, remedy));
    };
    if !SECONDS.contains(&leases.seconds) {
        refuse(
            "seconds",
            format!("{} s is no time for a lease", leases.seconds),
            format!(
                "use {} to {}; a policy change bites within this time",
                SECONDS.start(),
                SECONDS.end()
            ),
        );
    }
    if !SIZE.contains(&leases.size) {
        refuse(
            "size",
            format!("{} leases cannot be kept", leases.size),
            format!("use {} to {}, two to each conversation", SIZE.start(), SIZE.end()),
        );
    }
    if leases.accept_programs.iter().any(|pattern| pattern.to_string().is_empty()) {
        refuse(
            "accept_programs",
            "an empty name is that of no program".to_owned(),
            "write a program's name as `bpftool prog` shows it; a trailing * stands for any rest"
                .to_owned(),
        );
    }
    for (key, mark, like) in
        [("mark", leases.mark, "0x1000"), ("service_mark", leases.service_mark(), "0x800")]
    {
        let remedy = format!("use one bit that no other software uses, like {like}");
        if mark.count_ones() != 1 {
            refuse(key, format!("{mark:#x} has {} bits", mark.count_ones()), remedy);
        } else if let Some((_, whose)) = TAKEN.iter().find(|(bits, _)| bits & mark != 0) {
            refuse(key, format!("{mark:#x} is among {whose} bits"), remedy);
        }
    }
    if leases.service_mark == Some(leases.mark) && leases.mark.count_ones() == 1 {
        refuse(
            "service_mark",
            format!("{:#x} is leases.mark, too", leases.mark),
            "use another bit: the programs tell flows of Services from others by it".to_owned(),
        );
    }
}
