//! `tunless try` where there is nothing to try, and nothing to keep. What it does beside a real tunl0 is
//! the case `try_beside_tunl0` of the suite `smoke` in virtual machines.

use tunless_lab::{Daemon, Lab};
use tunless_tests::scene::Setup;

#[test]
fn a_try_without_a_way_back_is_refused_and_leaves_nothing() {
    let lab = Lab::new().fabric_filter(true).build().unwrap();
    let (node1, node2) = (&lab.node1, &lab.node2);
    let yaml = Setup::VERIFIED.config(node2, node1, "");
    let mut daemon = Daemon::start(node2, &yaml).unwrap();
    let refused = |daemon: &Daemon, args: &[&str], status: i32, said: &str| {
        let output = daemon.cli(&[&["try"], args].concat()).unwrap();
        assert_eq!(output.status, Some(status), "{args:?}: {output:?}");
        assert!(output.stderr.contains(said), "{args:?}: {}", output.stderr);
    };
    refused(&daemon, &["--keep"], 1, "nothing is only tried");
    refused(&daemon, &["--for", "5s"], 1, "tunl0 carries no routes");
    for (length, said) in
        [("4s", "from 5s"), ("1441m", "from 5s"), ("soon", "soon"), ("-1m", "error")]
    {
        refused(&daemon, &[&format!("--for={length}")], 2, said);
    }
    refused(&daemon, &["--keep", "--for", "10m"], 2, "cannot be used with");

    daemon.terminate_and_detach().unwrap();
    refused(&daemon, &["--keep"], 1, "nothing is pinned");
    refused(&daemon, &["--for", "5s"], 1, "tunl0 carries no routes");
    assert!(!node2.bpffs.exists(), "nothing was made");
    daemon.finish().unwrap();
    assert_eq!(lab.problems(), Vec::<String>::new());
}
