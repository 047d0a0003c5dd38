//! The kernel modules that the guest loads, each after those it needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::kernels::Installed;

/// What suites use, by name. A kernel may have some of them built in.
const WANTED: &[&str] = &[
    // Devices.
    "8021q",
    "bonding",
    "bridge",
    "dummy",
    "ipip",
    "tun",
    "veth",
    "virtio_net",
    "virtio_pci",
    "vmxnet3",
    "vrf",
    "vxlan",
    "wireguard",
    // Traffic control.
    "act_gact",
    "cls_bpf",
    "cls_matchall",
    "sch_ingress",
    "sch_tbf",
    // Netfilter: the lab's rules, kube-proxy's.
    "nf_conntrack_netlink",
    "nf_flow_table_inet",
    "nf_nat",
    "nf_tables",
    "nft_chain_nat",
    "nft_compat",
    "nft_ct",
    "nft_flow_offload",
    "nft_masq",
    "nft_nat",
    "ipt_rpfilter",
    "xt_MASQUERADE",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_mark",
    "xt_nat",
    "xt_statistic",
    "xt_tcpudp",
    // kube-proxy's of its IPVS mode.
    "ip_vs",
    "ip_vs_rr",
    // IPsec, with AES-GCM.
    "esp4",
    "xfrm_user",
    "ctr",
    "gcm",
    "seqiv",
    "jitterentropy_rng",
    // Sockets.
    "af_packet",
    // Measuring.
    "pktgen",
];

/// Part of another module, or of the kernel, in some kernels.
const FORMER: &[&str] = &["nft_objref", "ghash_generic", "sha512_generic", "drbg"];

/// A module, ready to load.
pub struct Module {
    /// Its place below the directory of the release, as packed.
    pub path: String,
    /// The object, decompressed.
    pub object: Vec<u8>,
}

/// The modules to load, in order.
pub fn collect(kernel: &Installed) -> Result<Vec<Module>> {
    let read = |name: &str| {
        let path = kernel.modules.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let dependencies = read("modules.dep")?;
    let index = Index::parse(&dependencies, &read("modules.builtin")?);
    let former = FORMER.iter().filter(|name| index.paths.contains_key(**name));
    let wanted: Vec<&str> = WANTED.iter().chain(former).copied().collect();
    index
        .order(&wanted)
        .with_context(|| format!("kernel {}", kernel.release))?
        .into_iter()
        .map(|path| {
            let object = load(&kernel.modules.join(path))?;
            let path = path.strip_suffix(".xz").unwrap_or(path).to_owned();
            Ok(Module { path, object })
        })
        .collect()
}

/// What a kernel has, and which module needs which.
struct Index<'a> {
    paths: BTreeMap<String, &'a str>,
    needs: BTreeMap<&'a str, Vec<&'a str>>,
    built_in: BTreeSet<String>,
}

impl<'a> Index<'a> {
    /// From depmod's `modules.dep` (`a.ko: b.ko c.ko`) and Debian's `modules.builtin`.
    fn parse(dependencies: &'a str, built_in: &str) -> Self {
        let needs: BTreeMap<_, _> = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(path, needs)| (path.trim(), needs.split_whitespace().collect()))
            .collect();
        Self {
            paths: needs.keys().map(|path| (name_of(path), *path)).collect(),
            needs,
            built_in: built_in.lines().map(name_of).collect(),
        }
    }

    /// The paths of `wanted` and all they need, each after what it needs.
    fn order(&self, wanted: &[&str]) -> Result<Vec<&'a str>> {
        let mut order = Vec::new();
        for name in wanted {
            match self.paths.get(&name_of(name)) {
                Some(path) => self.visit(path, &mut order),
                None if self.built_in.contains(&name_of(name)) => {}
                None => bail!("has no module {name}"),
            }
        }
        Ok(order)
    }

    fn visit(&self, path: &'a str, order: &mut Vec<&'a str>) {
        // depmod refuses circles, and lists what is needed indirectly, too.
        for needed in self.needs.get(path).into_iter().flatten() {
            if !order.contains(needed) {
                self.visit(needed, order);
            }
        }
        if !order.contains(&path) {
            order.push(path);
        }
    }
}

/// `kernel/net/ipv4/xt-x.ko.xz` → `xt_x`: the two dashes are one to the kernel.
fn name_of(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

fn load(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    }
    let output = Command::new("xz")
        .args(["--decompress", "--stdout"])
        .arg(path)
        .output()
        .context("`xz` does not start")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} cannot be decompressed: {}", path.display(), said.trim());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "\
kernel/net/ipv4/ipip.ko.xz: kernel/net/ipv4/tunnel4.ko.xz kernel/net/ipv4/ip_tunnel.ko.xz
kernel/net/ipv4/tunnel4.ko.xz:
kernel/net/ipv4/ip_tunnel.ko.xz: kernel/lib/base-x.ko.xz
kernel/lib/base-x.ko.xz:
kernel/net/sit.ko.xz: kernel/net/ipv4/ip_tunnel.ko.xz
";

    #[test]
    fn a_module_comes_after_what_it_needs_and_only_once() {
        let index = Index::parse(DEPENDENCIES, "kernel/drivers/net/veth.ko\n");
        let order = index.order(&["sit", "ipip", "veth", "ipip"]).unwrap();
        assert_eq!(
            order,
            [
                "kernel/lib/base-x.ko.xz",
                "kernel/net/ipv4/ip_tunnel.ko.xz",
                "kernel/net/sit.ko.xz",
                "kernel/net/ipv4/tunnel4.ko.xz",
                "kernel/net/ipv4/ipip.ko.xz",
            ]
        );
        assert_eq!(index.order(&["base_x"]).unwrap(), ["kernel/lib/base-x.ko.xz"]);
    }

    #[test]
    fn a_missing_module_is_named() {
        let error = Index::parse(DEPENDENCIES, "").order(&["veth"]).unwrap_err();
        assert_eq!(error.to_string(), "has no module veth");
    }
}
