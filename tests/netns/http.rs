//! The daemon's HTTP: who may ask what, slow and hostile clients, an address that cannot be had, and
//! what a scrape does to the rest (nothing).

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tunless_lab::{Daemon, Lab, LabBuilder, Node, traffic::http};
use tunless_tests::scene::{
    SOON, Scene, Setup, assert_lossless,
    scraped::{Answer, DEFAULT, ask, ask_at, get},
    stream_between, until,
};

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

fn problems(daemon: &Daemon) -> Vec<Value> {
    let status = daemon.cli_json(&["status"]).unwrap();
    status["problems"].as_array().unwrap().clone()
}

/// The problem that nothing is served, once `status` lists it.
fn unserved(daemon: &Daemon) -> Value {
    until("`status` lists http", SOON, || {
        problems(daemon).into_iter().find(|problem| problem["code"] == "http")
    })
}

fn is_refused(node: &Node, address: SocketAddrV4) -> bool {
    node.netns.run(|| Ok(TcpStream::connect(address).is_err())).unwrap()
}

/// Which addresses the node listens on with TCP.
fn listening(node: &Node) -> String {
    node.netns.exec("ss", &["-Hltn"]).unwrap()
}

#[test]
fn requests_that_read_are_answered_and_others_refused() {
    let lab = Lab::new().build().unwrap();
    let node = &lab.node2;
    let mut daemon = Daemon::start(node, &Setup::OFF.config(node, &lab.node1, "")).unwrap();
    for (method, path, status, body) in [
        ("GET", "/healthz", 200, "ok\n"),
        ("GET", "/readyz", 200, "ready\n"),
        ("GET", "/readyz?verbose", 200, "ready\n"),
        ("HEAD", "/healthz", 200, ""),
        ("HEAD", "/metrics", 200, ""),
        ("POST", "/healthz", 405, "GET or HEAD\n"),
        ("PUT", "/metrics", 405, "GET or HEAD\n"),
        ("DELETE", "/nowhere", 405, "GET or HEAD\n"),
    ] {
        let answer = ask(node, method, path, "").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{method} {path}");
        assert_eq!(answer.head.contains("allow: get, head"), status == 405, "{}", answer.head);
    }
    for path in ["/nowhere", "/metrics/", "//metrics", "/METRICS"] {
        let answer = get(node, path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.body.contains("/metrics"), "{}", answer.body);
    }
    assert_eq!(get(node, "/").status, 200);
    let length: usize = ask(node, "HEAD", "/readyz", "")
        .unwrap()
        .head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .unwrap();
    assert_eq!(length, "ready\n".len());
    // Others of this host's addresses have no socket.
    assert_eq!(listening(node).lines().count(), 1, "{}", listening(node));
    assert!(is_refused(node, SocketAddrV4::new(node.ip, DEFAULT.port())));

    // One connection, several requests; then HTTP/1.0.
    let text = http::send(
        &node.netns,
        DEFAULT,
        "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /readyz HTTP/1.1\r\nHost: a\r\n\
         Connection: close\r\n\r\n",
        SOON,
    )
    .unwrap();
    assert!(text.contains("\r\n\r\nok\nHTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nready\n"));
    let text = http::send(&node.netns, DEFAULT, "GET /healthz HTTP/1.0\r\n\r\n", SOON).unwrap();
    assert!(text.starts_with("HTTP/1.0 200 OK") && text.ends_with("\r\n\r\nok\n"), "{text}");
    hostile(node);
    daemon.terminate().unwrap();
    assert!(is_refused(node, DEFAULT));
    daemon.finish().unwrap();
}

/// What is no request, or too much of one.
fn hostile(node: &Node) {
    let send = |request: &str| http::send(&node.netns, DEFAULT, request, SOON);
    let large = format!("GET /metrics HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(500));
    let body = format!(
        "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n{}",
        "x".repeat(1 << 20)
    );
    for request in ["\r\n\r\n\0\0\0", "GET\r\n\r\n", "hello\r\n\r\n", &large, &many, &body] {
        // It may be cut off before it was sent; never is it answered with figures.
        if let Ok(text) = send(request) {
            let status = text.split(' ').nth(1).unwrap_or_default();
            assert!(["", "400", "405", "414", "431"].contains(&status), "{text}");
        }
        assert_eq!(get(node, "/healthz").body, "ok\n");
    }
}

/// Clients that say nothing hold a place each, for some seconds.
#[test]
fn clients_that_say_nothing_keep_no_one_out_for_long() {
    let scene = Scene::new(lab(), Setup::OFF);
    scene.warm_up();
    let (perf, sit) = scene.pods();
    let stream = stream_between(perf, sit, 5021);
    let node = &scene.lab.node2;
    let silent: Vec<TcpStream> = node
        .netns
        .run(|| Ok((0..200).map(|_| TcpStream::connect(DEFAULT)).collect::<Result<_, _>>()?))
        .unwrap();
    silent.iter().take(100).for_each(|mut client| client.write_all(b"GET /metr").unwrap());
    assert_eq!(get(node, "/healthz").status, 200);
    // The others wait until these were sent away.
    let mut first = &silent[0];
    first.set_read_timeout(Some(SOON)).unwrap();
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).unwrap();
    drop(silent);
    assert_lossless(stream);
    scene.finish();
}

#[test]
fn a_hundred_scrapes_at_once_are_answered_and_no_packet_is_lost() {
    let scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let (perf, sit) = scene.pods();
    let streams = [stream_between(perf, sit, 5021), stream_between(sit, perf, 5022)];
    let node = &scene.lab.node2;
    let answers: Vec<Answer> = thread::scope(|scope| {
        let scrapes: Vec<_> =
            (0..100).map(|_| scope.spawn(|| ask(node, "GET", "/metrics", ""))).collect();
        scrapes.into_iter().map(|scrape| scrape.join().unwrap().unwrap()).collect()
    });
    for answer in answers {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.figure("tunless_maps_readable"), 1.0);
    }
    streams.into_iter().for_each(assert_lossless);
    scene.finish();
}

#[test]
fn scrapes_go_on_while_programs_maps_and_the_daemon_are_replaced() {
    let mut scene = Scene::new(lab(), Setup::VERIFIED);
    scene.warm_up();
    let (perf, sit) = scene.pods();
    let stream = stream_between(perf, sit, 5021);
    let node = scene.lab.node2.clone();
    let config = |more: &str| Setup::VERIFIED.config(&scene.lab.node2, &scene.lab.node1, more);
    let (smaller, spoof) = (config("leases: {size: 4096}\n"), config("spoof: stack\n"));
    let daemon = &mut scene.daemon2;
    let (stop, good, away) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Before the question: an answer that fails may have begun while the daemon was there.
                let was_away = away.load(Ordering::Relaxed);
                match ask(&node, "GET", "/metrics", "") {
                    Ok(answer) => {
                        assert_eq!(answer.status, 200);
                        assert!(answer.body.contains("tunless_maps_readable 1"), "{}", answer.body);
                        good.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        let is_away = was_away || away.load(Ordering::Relaxed);
                        assert!(is_away, "{error:#}");
                    }
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        let more = || {
            let before = good.load(Ordering::Relaxed);
            until("scrapes go on", SOON, || {
                (good.load(Ordering::Relaxed) > before + 3).then_some(())
            });
        };
        let capacity = || get(&node, "/metrics").figure("tunless_map_max_entries{map=\"LEASES\"}");
        more();
        // Other programs, then another map in the place of LEASES, and back.
        for (text, size) in [(&spoof, 65_536.0), (&smaller, 4_096.0), (&spoof, 65_536.0)] {
            daemon.replace_config(text).unwrap();
            daemon.reload().unwrap();
            until("the map has another size", SOON, || (capacity() == size).then_some(()));
            more();
        }
        away.store(true, Ordering::Relaxed);
        daemon.kill9().unwrap();
        assert!(is_refused(&node, DEFAULT));
        daemon.restart().unwrap();
        until("the new one answers", SOON, || ask(&node, "GET", "/metrics", "").ok());
        more();
        away.store(false, Ordering::Relaxed);
        more();
        stop.store(true, Ordering::Relaxed);
    });
    assert_lossless(stream);
    scene.finish();
}

#[test]
fn an_address_that_cannot_be_had_is_a_problem_and_is_tried_again() {
    let lab = lab().build().unwrap();
    let node = &lab.node2;
    let taken = node.netns.run(|| Ok(TcpListener::bind(DEFAULT)?)).unwrap();
    let config = |more: &str| Setup::OFF.config(node, &lab.node1, more);
    let mut daemon = Daemon::start(node, &config("")).unwrap();
    let found = unserved(&daemon);
    assert_eq!((&found["level"], &found["where"]), (&"info".into(), &"127.0.0.1:9469".into()));
    let what = "metrics and health are not served at 127.0.0.1:9469: another process listens there";
    assert_eq!(found["what"], what);
    assert!(found["remedy"].as_str().unwrap().contains("ss -ltnp sport = :9469"), "{found}");
    assert_eq!(daemon.cli(&["status", "--strict"]).unwrap().status, Some(0), "no packet suffers");
    drop(taken);
    until("it is served", SOON, || ask(node, "GET", "/healthz", "").ok());
    until("no problem is left", SOON, || problems(&daemon).is_empty().then_some(()));
    assert_eq!(daemon.log().matches(what).count(), 2, "once each: {}", daemon.log());

    // An address that comes later.
    let later = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 7), 9470);
    daemon.replace_config(&config(&format!("http: {{listen: \"{later}\"}}\n"))).unwrap();
    daemon.reload().unwrap();
    let found = unserved(&daemon);
    let what = found["what"].as_str().unwrap();
    assert!(what.ends_with("192.0.2.7:9470: this host does not have the address"), "{what}");
    assert!(is_refused(node, DEFAULT), "the old one is closed");
    node.netns.ip("addr add 192.0.2.7/32 dev lo").unwrap();
    until("it is served", SOON, || ask_at(node, later, "GET", "/healthz", "").ok());
    until("no problem is left", SOON, || problems(&daemon).is_empty().then_some(()));

    // Off, with a client that stays connected, and on again.
    let mut client = node.netns.run(|| Ok(TcpStream::connect(later)?)).unwrap();
    daemon.replace_config(&config("http: {listen: off}\n")).unwrap();
    daemon.reload().unwrap();
    until("nothing listens", SOON, || listening(node).is_empty().then_some(()));
    client.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap_or_default(), 0, "its connection is closed");
    assert_eq!(problems(&daemon), Vec::<Value>::new());
    daemon.replace_config(&config("http: {nodes: true}\n")).unwrap();
    daemon.reload().unwrap();
    until("it is served", SOON, || {
        let answer = ask(node, "GET", "/metrics", "").ok()?;
        answer.body.contains("tunless_node_packets_total").then_some(())
    });
    daemon.replace_config(&config("")).unwrap();
    daemon.reload().unwrap();
    until("nodes have no series", SOON, || {
        (!get(node, "/metrics").body.contains("tunless_node_packets_total")).then_some(())
    });
    daemon.finish().unwrap();
}

/// Off from the start: not a single socket.
#[test]
fn off_opens_no_socket() {
    let lab = Lab::new().build().unwrap();
    let node = &lab.node2;
    let config = Setup::OFF.config(node, &lab.node1, "http: {listen: off}\n");
    let daemon = Daemon::start(node, &config).unwrap();
    assert_eq!(listening(node), "");
    let shown = daemon.cli_json(&["config", "show"]).unwrap();
    assert_eq!(shown["http"], json!({"listen": "off", "nodes": false}));
    daemon.finish().unwrap();
}

/// Only what lasts and takes the node down; and the daemon is alive all along.
#[test]
fn a_node_that_carries_no_traffic_is_alive_and_not_ready() {
    let scene = Scene::new(lab(), Setup::OFF);
    scene.warm_up();
    let node = &scene.lab.node2;
    assert_eq!(get(node, "/readyz").body, "ready\n");
    node.netns.set_sysctl("ipv4/ip_forward", "0").unwrap();
    let began = Instant::now();
    let answer = until("the node is not ready", SOON, || {
        let answer = get(node, "/readyz");
        (answer.status == 503).then_some(answer)
    });
    assert!(began.elapsed() >= Duration::from_secs(9), "it lasts for ten seconds");
    let mut lines = answer.body.lines();
    assert_eq!(lines.next(), Some("not ready"));
    assert!(lines.next().unwrap().starts_with("forwarding-off down for "), "{}", answer.body);
    assert_eq!(get(node, "/healthz").body, "ok\n", "a restart would repair nothing");
    assert_eq!(get(node, "/metrics").figure("tunless_ready"), 0.0);
    let status = scene.daemon2.cli(&["status"]).unwrap();
    assert_eq!(status.status, Some(3), "as in `status`: {}", status.stdout);
    node.netns.set_sysctl("ipv4/ip_forward", "1").unwrap();
    until("the node is ready", SOON, || (get(node, "/readyz").body == "ready\n").then_some(()));
    scene.finish();
}
