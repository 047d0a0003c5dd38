//! Bad files, through the real binary: refused with file, line, key and what
//! to do, before anything is made.

use std::{fs, os::unix::fs::PermissionsExt as _};

use tunless_lab::{
    Lab, LabBuilder, Node,
    daemon::{Tunless, expect_failure},
};

fn lab() -> LabBuilder {
    Lab::new()
}

/// A file, and what has to be said about it.
struct Bad {
    what: &'static str,
    yaml: &'static str,
    /// Behind the file's name.
    place: &'static str,
    said: &'static [&'static str],
}

const BAD: &[Bad] = &[
    Bad {
        what: "an unknown key",
        yaml: "fastpath: off\ncolour: red\n",
        place: ":2: ",
        said: &["colour", "tunless config example"],
    },
    Bad {
        what: "an unknown key inside",
        yaml: "node:\n  nmae: x\n",
        place: ":2: ",
        said: &["nmae", "name"],
    },
    Bad {
        what: "an unknown value",
        yaml: "fastpath: sometimes\n",
        place: ":1: ",
        said: &["sometimes", "`off`", "`trusted`"],
    },
    Bad {
        what: "a mode that is not there",
        yaml: "mode: overlay\n",
        place: ":1: ",
        said: &["overlay", "accelerate", "replace"],
    },
    Bad { what: "no YAML", yaml: "node: {\n", place: ":", said: &["tunless config example"] },
    Bad {
        what: "host bits",
        yaml: "routes:\n  static:\n    - {cidr: 10.20.42.1/26, node: 172.16.35.4}\n",
        place: ":3: ",
        said: &["cidr", "10.20.42.1/26", "did you mean 10.20.42.0/26?"],
    },
    Bad {
        what: "no CIDR",
        yaml: "routes:\n  static:\n    - cidr: 10.20.42.0/33\n      node: 172.16.35.4\n",
        place: ":3: ",
        said: &["cidr", "10.20.42.0/33", "like 10.20.42.0/26"],
    },
    Bad {
        what: "one CIDR for two nodes",
        yaml: "routes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 172.16.35.4}\n    \
               - {cidr: 10.20.42.0/26, node: 172.16.34.7}\n",
        place: ":4: ",
        said: &["routes.static[1].cidr", "already belongs to node 172.16.35.4", "longer prefix"],
    },
    Bad {
        what: "a route to our own node",
        yaml: "routes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 172.16.35.4}\n    \
               - {cidr: 10.20.43.0/26, node: 172.16.36.10}\n",
        place: ":4: ",
        said: &["routes.static[1].node", "172.16.36.10 is this node itself", "other nodes'"],
    },
    Bad {
        what: "a route to our own node, whose address is configured",
        yaml: "node: {address: 172.16.36.10}\nroutes:\n  static:\n    \
               - {cidr: 10.20.43.0/26, node: 172.16.36.10}\n",
        place: ":4: ",
        said: &["routes.static[0].node", "172.16.36.10 is this node itself"],
    },
    Bad {
        what: "a route over our own pods",
        yaml: "routes:\n  static:\n    - {cidr: 10.20.105.192/26, node: 172.16.35.4}\n",
        place: ":3: ",
        said: &["routes.static[0].cidr", "covers our own pod 10.20.105.215", "remove the route"],
    },
    Bad {
        what: "our own pod's address given to another node",
        yaml: "node: {tunnel_address: 10.20.105.192}\nroutes:\n  static:\n    \
               - {cidr: 10.20.105.215/32, node: 172.16.35.4}\n",
        place: ":4: ",
        said: &["routes.static[0].cidr", "covers our own pod 10.20.105.215"],
    },
    Bad {
        what: "our own block",
        yaml: "node: {tunnel_address: 10.20.105.192}\nroutes:\n  static:\n    \
               - {cidr: 10.20.105.192/26, node: 172.16.35.4}\n",
        place: ":4: ",
        said: &["routes.static[0].cidr", "our own tunnel address 10.20.105.192"],
    },
    Bad {
        what: "our node's address inside a pod CIDR",
        yaml: "routes:\n  static:\n    - {cidr: 172.16.36.0/24, node: 172.16.35.4}\n",
        place: ":3: ",
        said: &["routes.static[0].cidr", "our own node address 172.16.36.10", "correct the CIDR"],
    },
    Bad {
        what: "the configured node's address inside a pod CIDR",
        yaml: "node:\n  address: 172.16.36.10\nroutes:\n  static:\n    \
               - {cidr: 172.16.36.0/24, node: 172.16.35.4}\n",
        place: ":2: ",
        said: &["node.address", "lies inside the pod CIDR 172.16.36.0/24", "correct"],
    },
    Bad {
        what: "another node's address inside a pod CIDR",
        yaml: "routes:\n  static:\n    - {cidr: 172.16.35.0/24, node: 172.16.35.4}\n",
        place: ":3: ",
        said: &["routes.static[0].node", "lies inside the pod CIDR", "wrapped for ever"],
    },
    Bad {
        what: "an interface that is not there",
        yaml: "underlay:\n  interfaces: [eth0, eth7]\n",
        place: ":2: ",
        said: &[
            "underlay.interfaces[1]",
            "there is no interface eth7",
            "the interfaces are",
            "eth0",
        ],
    },
    Bad {
        what: "somebody else's address",
        yaml: "node:\n  address: 172.16.36.99\n",
        place: ":2: ",
        said: &["node.address", "no interface here has the address 172.16.36.99"],
    },
    Bad {
        what: "every interface a pod's",
        yaml: "workloads:\n  interfaces: [\"*\"]\n",
        place: ":2: ",
        said: &["workloads.interfaces[0]", "cali*"],
    },
    Bad {
        what: "extra sources inside a pod CIDR",
        yaml: "routes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 172.16.35.4}\n  nodes:\n    \
               - node: 172.16.35.4\n      extra_sources: [10.20.42.7/32]\n",
        place: ":6: ",
        said: &["routes.nodes[0].extra_sources[0]", "overlaps the pod CIDR", "use a route"],
    },
    Bad {
        what: "a relative bpffs",
        yaml: "mtu: auto\nbpffs: pins\n",
        place: ":2: ",
        said: &["bpffs", "not an absolute path"],
    },
    Bad { what: "an MTU too small", yaml: "mtu: 20\n", place: ":1: ", said: &["mtu", "68"] },
    Bad { what: "a key without a value", yaml: "bpffs:\n", place: ":1: ", said: &["bpffs"] },
];

/// Nothing was made on the node.
fn assert_untouched(node: &Node) {
    assert!(!node.bpffs.exists());
    assert!(!node.netns.ip("link show").unwrap().contains("tunless0"));
}

#[test]
fn bad_files_are_refused_with_file_line_key_and_remedy() {
    let lab = lab().build().unwrap();
    let node2 = &lab.node2;
    let file = lab.dir().join("node2-refused/config.yaml");
    for Bad { what, yaml, place, said } in BAD {
        let (code, stderr) = expect_failure(node2, yaml).unwrap();
        assert_eq!(code, 78, "{what}: {stderr}");
        let place = format!("{}{place}", file.display());
        for said in [place.as_str()].iter().chain(*said) {
            assert!(stderr.contains(said), "{what}: no `{said}` in: {stderr}");
        }
        assert_untouched(node2);
    }
    println!("{} bad files", BAD.len());
}

#[test]
fn all_mistakes_are_named_at_once() {
    let lab = lab().build().unwrap();
    let yaml = "routes:\n  static:\n    - {cidr: 10.20.42.0/26, node: 172.16.35.4}\n    \
                - {cidr: 10.20.42.0/26, node: 172.16.34.7}\n    \
                - {cidr: 10.20.43.0/26, node: 127.0.0.1}\nbpffs: pins\n";
    let (code, stderr) = expect_failure(&lab.node2, yaml).unwrap();
    assert_eq!(code, 78);
    for place in ["config.yaml:4: ", "config.yaml:5: ", "config.yaml:6: "] {
        assert!(stderr.contains(place), "no {place} in {stderr}");
    }
}

/// Who may write the file says where packets go.
#[test]
fn a_file_that_anybody_may_write_is_refused() {
    let lab = lab().build().unwrap();
    let path = lab.dir().join("open.yaml");
    fs::write(&path, format!("bpffs: {}\n", lab.node2.bpffs.display())).unwrap();
    for mode in [0o666, 0o602, 0o622] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let output = Tunless::new(&lab.node2, Some(path.clone())).run(&["run"]).unwrap();
        assert_eq!(output.status, Some(78), "{}", output.stderr);
        for said in [&path.display().to_string(), &format!("mode {mode:04o}"), "chmod o-w"] {
            assert!(output.stderr.contains(said), "no {said} in {}", output.stderr);
        }
        assert_untouched(&lab.node2);
    }
}

#[test]
fn a_file_that_is_not_there_is_refused() {
    let lab = lab().build().unwrap();
    let path = lab.dir().join("nowhere.yaml");
    let output = Tunless::new(&lab.node2, Some(path.clone())).run(&["run"]).unwrap();
    assert_eq!(output.status, Some(78));
    assert!(output.stderr.contains(&path.display().to_string()), "{}", output.stderr);
    assert!(output.stderr.contains("tunless config example"), "{}", output.stderr);
}

/// A longer prefix inside another node's block is a borrowed address, no mistake.
#[test]
fn a_borrowed_address_is_fine() {
    let lab = lab().build().unwrap();
    let (node1, node2) = (&lab.node1, &lab.node2);
    let routes = [(node1.block, node1.ip), ("10.20.42.40/32", [172, 16, 34, 7].into())];
    let config = tunless_tests::scene::Setup::OFF.config_with(node2, &routes, "");
    let daemon = tunless_lab::Daemon::start(node2, &config).unwrap();
    for (address, node) in [("10.20.42.40", "172.16.34.7"), ("10.20.42.41", "172.16.35.4")] {
        let answer = daemon.cli_json(&["routes", "get", address]).unwrap();
        assert_eq!(answer["node"], node);
    }
    daemon.finish().unwrap();
    assert_eq!(lab.problems(), Vec::<String>::new());
}
