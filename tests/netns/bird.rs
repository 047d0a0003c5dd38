//! The source `bird` against real BIRDs, by itself: what it says, and what it
//! never says.

use nix::sys::signal::Signal;
use tunless_lab::{
    Lab, Node,
    bird::{Bird, Sessions},
};
use tunless_tests::{
    bird::{PATIENCE, Watcher},
    scene::until,
};

/// Longer than any of these tests waits for something: so it never decides.
const NEVER: u64 = 600;

fn lab() -> Lab {
    Lab::new().third_node(true).fourth_node(true).default_pods(false).build().unwrap()
}

/// Each node's own block.
fn all<'a>(nodes: &[&'a Node]) -> Vec<(&'a str, &'a Node)> {
    nodes.iter().map(|node| (node.block, *node)).collect()
}

fn with<'a>(
    mut claims: Vec<(&'a str, &'a Node)>,
    more: &[(&'a str, &'a Node)],
) -> Vec<(&'a str, &'a Node)> {
    claims.extend(more);
    claims
}

/// On node2, which shares its subnet with nobody.
fn watch(birds: &[Bird]) -> Watcher {
    Watcher::start(birds[1].node(), &birds[1].socket(), NEVER)
}

#[test]
fn blocks_come_move_and_go_with_a_full_mesh() {
    let lab = lab();
    let nodes = lab.nodes();
    let mut birds = Bird::start_all_for_good(&nodes, Sessions::Mesh).unwrap();
    let mut watcher = watch(&birds);
    watcher.wait_for("the first table", &all(&nodes));
    assert!(watcher.withdrawn.is_empty());

    let (second, borrowed) = ("10.20.50.0/26", "10.20.7.70/32");
    birds[0].announce(&[nodes[0].block, second, borrowed]).unwrap();
    let more = with(all(&nodes), &[(second, nodes[0]), (borrowed, nodes[0])]);
    watcher.wait_for("a second block and a borrowed address", &more);

    // The second block moves: for a while two nodes say that it is theirs.
    birds[2].announce(&[nodes[2].block, second]).unwrap();
    let both = with(more.clone(), &[(second, nodes[2])]);
    watcher.wait_for("two owners", &both);
    assert!(watcher.withdrawn.is_empty());
    birds[0].announce(&[nodes[0].block]).unwrap();
    watcher.wait_for("one owner", &with(all(&nodes), &[(second, nodes[2])]));
    assert_eq!(watcher.withdrawn.iter().collect::<Vec<_>>(), [borrowed]);

    birds[2].announce(&[nodes[2].block]).unwrap();
    watcher.wait_for("all as at first", &all(&nodes));
}

#[test]
fn behind_a_reflector_the_next_hop_is_still_the_node() {
    let lab = lab();
    let nodes = lab.nodes();
    let mut birds = Bird::start_all_for_good(&nodes, Sessions::Reflector).unwrap();
    let mut watcher = watch(&birds);
    watcher.wait_for("the first table", &all(&nodes));

    // The reflector goes and comes back: the nodes keep what it told them.
    birds[0].kill9().unwrap();
    birds[0].restart().unwrap();
    until("the reflector's sessions are up", PATIENCE, || {
        birds[0].is_established().unwrap().then_some(())
    });
    let second = "10.20.50.0/26";
    birds[3].announce(&[nodes[3].block, second]).unwrap();
    watcher.wait_for("what came after", &with(all(&nodes), &[(second, nodes[3])]));
    assert!(watcher.withdrawn.is_empty(), "{:?}", watcher.withdrawn);
    birds[3].announce(&[nodes[3].block]).unwrap();
    watcher.wait_for("what went after", &all(&nodes));
}

/// Our own BIRD dies, however it dies: nothing goes that is not gone.
#[test]
fn a_restart_of_bird_takes_back_only_what_is_gone() {
    let lab = lab();
    let nodes = lab.nodes();
    let mut birds = Bird::start_all_for_good(&nodes, Sessions::Mesh).unwrap();
    let second = "10.20.50.0/26";
    birds[0].announce(&[nodes[0].block, second]).unwrap();
    let mut watcher = watch(&birds);
    watcher.wait_for("the first table", &with(all(&nodes), &[(second, nodes[0])]));
    watcher.forget_downs();
    birds[1].kill9().unwrap();
    watcher.wait_down("cannot connect");
    watcher.forget_downs();
    birds[1].restart().unwrap();
    watcher.wait_down("it has just started");
    watcher.wait_for("the same again", &with(all(&nodes), &[(second, nodes[0])]));
    // Told to stop it takes all of its routes back first.
    watcher.forget_downs();
    birds[1].terminate().unwrap();
    watcher.wait_down("cannot connect");
    birds[0].announce(&[nodes[0].block]).unwrap();
    birds[2].announce(&[nodes[2].block, "10.20.51.0/26"]).unwrap();
    watcher.forget_downs();
    birds[1].restart().unwrap();
    let now = with(all(&nodes), &[("10.20.51.0/26", nodes[2])]);
    watcher.wait_for("all that came and went meanwhile", &now);
    assert_eq!(watcher.withdrawn.iter().collect::<Vec<_>>(), [second]);
}

/// A neighbour's BIRD comes back in time; a node does not.
#[test]
fn a_neighbours_restart_is_graceful_and_a_lost_node_is_lost() {
    let lab = lab();
    let nodes = lab.nodes();
    let mut birds = Bird::start_all(&nodes, Sessions::Mesh).unwrap();
    let mut watcher = watch(&birds);
    watcher.wait_for("the first table", &all(&nodes));
    birds[2].kill9().unwrap();
    birds[2].restart().unwrap();
    until("the sessions are up again", PATIENCE, || {
        birds[2].is_established().unwrap().then_some(())
    });
    let second = "10.20.50.0/26";
    birds[2].announce(&[nodes[2].block, second]).unwrap();
    watcher.wait_for("what came after", &with(all(&nodes), &[(second, nodes[2])]));
    assert!(watcher.withdrawn.is_empty(), "{:?}", watcher.withdrawn);

    lab.router.ip(&format!("link set {} down", nodes[3].router_port)).unwrap();
    let left = with(all(&nodes[..3]), &[(second, nodes[2])]);
    watcher.wait_for("a lost node", &left);
    assert_eq!(watcher.withdrawn.iter().collect::<Vec<_>>(), [nodes[3].block]);
    // Its session alone is down: BIRD itself is as well as ever.
    assert_eq!(watcher.down, None);
    lab.router.ip(&format!("link set {} up", nodes[3].router_port)).unwrap();
    watcher.wait_for("it is back", &with(all(&nodes), &[(second, nodes[2])]));
}

/// A session that never comes up holds the others for a bounded time only.
#[test]
fn a_node_that_is_lost_while_bird_restarts_is_lost_in_the_end() {
    let lab = lab();
    let nodes = lab.nodes();
    let mut birds = Bird::start_all_for_good(&nodes, Sessions::Mesh).unwrap();
    let mut watcher = Watcher::start(birds[1].node(), &birds[1].socket(), 15);
    watcher.wait_for("the first table", &all(&nodes));
    birds[3].kill9().unwrap();
    watcher.forget_downs();
    birds[1].kill9().unwrap();
    watcher.wait_down("cannot connect");
    watcher.forget_downs();
    birds[1].restart().unwrap();
    watcher.wait_down("it has just started");
    assert!(watcher.withdrawn.is_empty(), "{:?}", watcher.withdrawn);
    watcher.wait_for("the others", &all(&nodes[..3]));
}

#[test]
fn a_bird_that_hangs_is_down_and_keeps_its_word() {
    let lab = lab();
    let nodes = lab.nodes();
    let birds = Bird::start_all_for_good(&nodes[..2], Sessions::Mesh).unwrap();
    let mut watcher = watch(&birds);
    watcher.wait_for("the first table", &all(&nodes[..2]));
    watcher.forget_downs();
    birds[1].signal(Signal::SIGSTOP).unwrap();
    watcher.wait_down("BIRD did not answer within 30 s");
    birds[1].signal(Signal::SIGCONT).unwrap();
    // It may have lost its session meanwhile; graceful restart has kept the routes.
    watcher.wait_for("the same again", &all(&nodes[..2]));
}
