//! nftables' flowtable, the kernel's own way around its stack: an established flow
//! goes from device to device by a hash table at ingress. It has known IP-in-IP
//! since 6.19.

use anyhow::Result;
use tunless_lab::{Lab, Node, Pod};

/// On both nodes, for the pod's device and the wire.
pub fn open(lab: &Lab) -> Result<()> {
    let both: [(&Node, &Pod); 2] = [(&lab.node1, lab.sit()), (&lab.node2, lab.perf())];
    for (node, Pod { cali, .. }) in both {
        let rules = format!(
            "table inet bench {{\n\
               flowtable fast {{ hook ingress priority filter; devices = {{ {cali}, eth0 }}; }}\n\
               chain forward {{\n\
                 type filter hook forward priority filter + 10; policy accept;\n\
                 ct state established flow add @fast\n\
               }}\n\
             }}\n"
        );
        node.netns.exec_with_input("nft", &["-f", "-"], &rules)?;
    }
    Ok(())
}
