//! The limit: what is left when a program at each of our hooks does nothing but
//! write the next hop's MACs and redirect. No tunnel, no lookup, no check.

use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result};
use tunless_lab::{
    Lab, Netns,
    addr::{CALI_MAC, Mac},
    bpf::{
        self, instruction,
        opcode::{
            ADD, CALL, COPY, EXIT, IF_GREATER, IF_NOT_EQUAL, IF_WORD_NOT_EQUAL, LOAD_HALF,
            LOAD_WORD, MOVE, STORE_NUMBER,
        },
    },
    daemon::ensure_bpffs,
};

const REDIRECT: i32 = 23;
const REDIRECT_PEER: i32 = 155;

/// Both ways.
pub fn open(lab: &Lab) -> Result<()> {
    ensure_bpffs()?;
    for (node, pod, far) in
        [(&lab.node1, lab.sit(), lab.perf()), (&lab.node2, lab.perf(), lab.sit())]
    {
        let out =
            program(far.ip, node.gateway_mac, node.mac, REDIRECT, index(&node.netns, "eth0")?);
        attach(&node.netns, &pod.cali, &out, &format!("bench-{}-out", node.label))?;
        let ifindex = index(&node.netns, &pod.cali)?;
        let into = program(pod.ip, pod.mac, CALI_MAC, REDIRECT_PEER, ifindex);
        attach(&node.netns, "eth0", &into, &format!("bench-{}-in", node.label))?;
    }
    Ok(())
}

fn index(netns: &Netns, interface: &str) -> Result<i32> {
    let found = netns.ip(&format!("-o link show dev {interface}"))?;
    let number = found.split(':').next().unwrap_or_default().trim();
    number.parse().with_context(|| format!("{interface} has no number: {found}"))
}

/// Runs at the interface's ingress from now on, until its namespace goes.
fn attach(netns: &Netns, interface: &str, program: &[u64], name: &str) -> Result<()> {
    let pin = Path::new("/sys/fs/bpf").join(name);
    // What an interrupted run left.
    let _ = std::fs::remove_file(&pin);
    let program = bpf::load_classifier(program).context("the verifier refuses the program")?;
    bpf::pin(&program, &pin).with_context(|| format!("cannot pin {}", pin.display()))?;
    netns.exec("tc", &["qdisc", "add", "dev", interface, "clsact"])?;
    let file = pin.display().to_string();
    let filter = ["filter", "add", "dev", interface, "ingress", "bpf", "direct-action"];
    let attached = netns.exec("tc", &[&filter[..], &["object-pinned", &file]].concat());
    std::fs::remove_file(&pin).with_context(|| format!("cannot remove {file}"))?;
    attached.map(drop)
}

/// IPv4 to `to` gets these MACs and goes by `redirect` to the interface; anything else
/// to the stack.
fn program(to: Ipv4Addr, dst: Mac, src: Mac, redirect: i32, ifindex: i32) -> Vec<u64> {
    /// `struct __sk_buff`.
    const DATA: i16 = 76;
    const DATA_END: i16 = 80;
    const ETHERNET_AND_IP: i32 = 34;
    const IPV4: i32 = 0x0008;

    let [d0, d1, d2, d3, d4, d5] = dst;
    let [s0, s1, s2, s3, s4, s5] = src;
    let words = [[d0, d1, d2, d3], [d4, d5, s0, s1], [s2, s3, s4, s5]].map(i32::from_ne_bytes);
    vec![
        instruction(LOAD_WORD, 2, 1, DATA, 0),
        instruction(LOAD_WORD, 3, 1, DATA_END, 0),
        instruction(COPY, 4, 2, 0, 0),
        instruction(ADD, 4, 0, 0, ETHERNET_AND_IP),
        instruction(IF_GREATER, 4, 3, 11, 0),
        instruction(LOAD_HALF, 5, 2, 12, 0),
        instruction(IF_NOT_EQUAL, 5, 0, 9, IPV4),
        instruction(LOAD_WORD, 5, 2, 30, 0),
        instruction(IF_WORD_NOT_EQUAL, 5, 0, 7, i32::from_ne_bytes(to.octets())),
        instruction(STORE_NUMBER, 2, 0, 0, words[0]),
        instruction(STORE_NUMBER, 2, 0, 4, words[1]),
        instruction(STORE_NUMBER, 2, 0, 8, words[2]),
        instruction(MOVE, 1, 0, 0, ifindex),
        instruction(MOVE, 2, 0, 0, 0),
        instruction(CALL, 0, 0, 0, redirect),
        instruction(EXIT, 0, 0, 0, 0),
        // TC_ACT_OK
        instruction(MOVE, 0, 0, 0, 0),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}
