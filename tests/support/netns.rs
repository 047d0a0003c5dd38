//! A network namespace of a test's own, with the interfaces of
//! [`super::world`] and sockets on their far ends.
//!
//! The far ends are in a second namespace without addresses, so that nothing
//! ever answers, asks or announces: every packet is one the test sent.

use std::{
    fs::File,
    io::{Error, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::channel,
    thread,
};

use nix::{
    libc,
    sched::{CloneFlags, setns, unshare},
    unistd::gettid,
};

use super::{
    wire::Wire,
    world::{DROP_IF, JUMBO, NIC_IF, POD_IF, TUNNEL_IF, WIRE_IF},
};

/// The near ends, by device name, and the far ends, by socket.
pub struct Net {
    /// The other end of the underlay NIC `eth0`.
    pub wire: Wire,
    /// The pod's own interface, the other end of `cali0`.
    pub pod: Wire,
    /// The tunnel device itself: what the stack sends to it, what it hands to the stack.
    pub tunnel: Wire,
    outside: File,
}

impl Net {
    /// Runs `work` in the namespace of the far ends.
    pub fn outside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                setns(&self.outside, CloneFlags::CLONE_NEWNET).expect("the far namespace is ours");
                work()
            });
            there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Runs `test` in a fresh namespace. Needs root.
pub fn in_namespace<T: Send>(test: impl FnOnce(&Net) -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // A thread has its own network namespace; it goes with the thread.
            let net = build();
            test(&net)
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn build() -> Net {
    new_namespace();
    let (tid_to, tid_from) = channel();
    let (go_to, go_from) = channel();
    let outside = thread::spawn(move || {
        new_namespace();
        tid_to.send(gettid()).expect("the namespace's builder waits for this");
        go_from.recv().expect("the namespace's builder says when");
        for name in ["wire", "pod0", "drop0"] {
            ip(&format!("link set {name} mtu {JUMBO} up\n"));
        }
        // The sockets keep the namespace and its devices alive.
        let here = File::open("/proc/thread-self/ns/net").expect("a thread has a namespace");
        (Wire::open("wire"), Wire::open("pod0"), here)
    });
    let far = tid_from.recv().expect("the far end's namespace is made");
    ip(&format!(
        "link set lo up
         link add eth0 index {NIC_IF} address 02:00:00:00:00:02 type veth peer name wire index {WIRE_IF} address 02:00:00:00:00:03 netns {far}
         link add cali0 index {POD_IF} address 02:00:00:00:00:04 type veth peer name pod0 address 02:00:00:00:00:05 netns {far}
         link add tunless0 index {TUNNEL_IF} address 02:00:00:00:00:06 type veth peer name drop0 index {DROP_IF} netns {far}
         link set eth0 mtu {JUMBO} up
         link set cali0 mtu {JUMBO} up
         link set tunless0 mtu {JUMBO} arp off up
         addr add 172.16.36.10/24 dev eth0
         neigh add 172.16.36.1 lladdr 02:00:00:00:00:03 dev eth0 nud permanent
         route add 172.16.32.0/20 via 172.16.36.1
         "
    ));
    go_to.send(()).expect("the far end's thread waits for this");
    let (wire, pod, outside) = outside.join().expect("the far end has its devices");
    Net { wire, pod, tunnel: Wire::open("tunless0"), outside }
}

fn new_namespace() {
    unshare(CloneFlags::CLONE_NEWNET)
        .expect("a network namespace can be made: these tests run as root");
    // Router solicitations and the like would be counted.
    for scope in ["all", "default"] {
        let knob = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
        if Path::new(&knob).exists() {
            std::fs::write(&knob, "1").expect("IPv6 can be turned off");
        }
    }
}

/// Runs a batch of `ip` commands, one a line.
pub fn ip(batch: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("iproute2 is installed");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    stdin.write_all(batch.as_bytes()).expect("ip reads its batch");
    drop(stdin);
    let status = child.wait().expect("ip ends");
    assert!(status.success(), "ip failed on:\n{batch}");
}

/// The last error of a C call, with what it was about.
pub(super) fn check(result: libc::c_int, what: &str) {
    assert!(result >= 0, "{what}: {}", Error::last_os_error());
}
