//! `/metrics`: the figures are those of the commands, for Prometheus and promtool, too.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use aya::maps::{HashMap, Map, MapData};
use dataplane_common::{Flow, Ipv4Be, Lease, Reason};
use dataplane_user::{daemon::report::Code, metrics::Metric};
use serde_json::Value;
use tunless_lab::{Daemon, Lab, Node, Prometheus, cmd, dashboard, prometheus::promtool};
use tunless_tests::scene::{
    SOON, Scene, Setup, assert_answered,
    leased::{assert_all_answer, leases},
    scraped::{Answer, DEFAULT, ask, get},
    until,
};

/// Figures of each node, too.
const NODES: &str = "http: {nodes: true}\n";
const OPEN_METRICS: &str = "Accept: application/openmetrics-text;version=1.0.0\r\n";

/// Two nodes with traffic of all kinds behind them, by leases, too.
fn scene() -> Scene {
    let scene = Scene::with(Lab::new().fabric_filter(true), Setup::VERIFIED, NODES, &[]);
    scene.warm_up();
    let (perf, sit) = scene.pods();
    let server = tunless_lab::traffic::http::Server::start(&sit.netns, 8080, "sit").unwrap();
    let address = std::net::SocketAddrV4::new(sit.ip, 8080);
    tunless_lab::traffic::http::get(&perf.netns, address, SOON).unwrap();
    drop(server);
    scene
}

/// The figures of a moment in which no counter moved, and those of `counters list` from then.
fn figures_and_counters(daemon: &Daemon, node: &Node) -> (Answer, Value) {
    let list = || daemon.cli_json(&["counters", "list"]).unwrap();
    until("a moment without a packet", SOON, || {
        let before = list();
        // An answer may be up to a tenth of a second old, or a little more.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let answer = get(node, "/metrics");
        (list() == before).then_some((answer, before))
    })
}

#[test]
fn the_figures_are_those_of_the_commands() {
    let mut scene = scene();
    scene.twice(|scene| {
        assert_answered(&scene.lab.perf().netns, scene.lab.sit().ip);
        let (daemon, node) = (&scene.daemon2, &scene.lab.node2);
        let (answer, counters) = figures_and_counters(daemon, node);
        assert_eq!(answer.status, 200);
        let figures = answer.figures();
        let items = counters["items"].as_array().unwrap();
        assert_eq!(items.len(), Reason::COUNT);
        for item in items {
            let text = |key: &str| item[key].as_str().unwrap();
            let labels = format!(
                "reason=\"{}\",program=\"{}\",direction=\"{}\",verdict=\"{}\"",
                text("reason"),
                text("program"),
                text("direction"),
                text("verdict")
            );
            for (name, key) in [("packets", "packets"), ("bytes", "bytes")] {
                let series = format!("tunless_{name}_total{{{labels}}}");
                assert_eq!(figures[&series], item[key].as_f64().unwrap(), "{series}");
            }
        }
        let packets = |reason: &str| -> f64 {
            let of = |(series, value): (&String, &f64)| {
                let is_it = series.starts_with("tunless_packets_total{")
                    && series.contains(&format!("reason=\"{reason}\""));
                is_it.then_some(*value)
            };
            figures.iter().find_map(of).unwrap()
        };
        let grants = figures[r#"tunless_lease_grants_total{direction="encap",kind="flow"}"#];
        assert_eq!(grants, packets("host_lease_granted"));
        assert!(grants > 0.0, "the connection was leased");
        let ends = figures
            [r#"tunless_lease_revocations_total{direction="encap",cause="connection_control"}"#];
        assert_eq!(ends, packets("host_connection_control"));
        let by_cpu: f64 = figures
            .iter()
            .filter(|(series, _)| series.starts_with("tunless_decapsulated_packets_total{"))
            .map(|(_, packets)| packets)
            .sum();
        let status = daemon.cli_json(&["status"]).unwrap();
        let cpus = status["decapsulated_by_cpu"].as_array().unwrap();
        assert_eq!(by_cpu, cpus.iter().map(|cpu| cpu.as_f64().unwrap()).sum::<f64>());
        assert_eq!(figures[r#"tunless_routes{source="file",encap="ipip"}"#], 1.0);
        assert_eq!(figures[r#"tunless_nodes{state="reachable"}"#], status["nodes"].as_f64().unwrap());
        assert_eq!(figures["tunless_endpoints"], status["endpoints"].as_f64().unwrap());
        assert_eq!(figures[r#"tunless_map_max_entries{map="LEASES"}"#], 65_536.0);
        each_node(daemon, node, &figures);
        report(daemon, &figures);
    });
    scene.finish();
}

/// The figures of the one other node.
fn each_node(daemon: &Daemon, own: &Node, figures: &BTreeMap<String, f64>) {
    let nodes = daemon.cli_json(&["nodes", "list"]).unwrap();
    let item = &nodes["items"][0];
    let node = item["node"].as_str().unwrap();
    assert_ne!(node, own.ip.to_string());
    for (direction, key) in [("encap", "encap_packets"), ("decap", "decap_packets")] {
        let series =
            format!("tunless_node_packets_total{{node=\"{node}\",direction=\"{direction}\"}}");
        assert_eq!(figures[&series], item[key].as_f64().unwrap(), "{series}");
        assert!(figures[&series] > 0.0);
    }
    let forged = format!("tunless_node_forged_packets_total{{node=\"{node}\"}}");
    assert_eq!(figures[&forged], item["forged_packets"].as_f64().unwrap());
    let mtu = format!("tunless_node_path_mtu_bytes{{node=\"{node}\"}}");
    assert_eq!(figures[&mtu], item["mtu"].as_f64().unwrap());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seen = figures[&format!("tunless_node_last_seen_timestamp_seconds{{node=\"{node}\"}}")];
    let ago = now.as_secs_f64() - seen;
    let listed = item["last_seen_seconds"].as_f64().unwrap();
    // The list was made a moment before this clock was read.
    assert!((ago - listed).abs() < 60.0 && ago >= 0.0, "{ago} s ago, and {listed} s");
}

/// What comes from the daemon's report.
fn report(daemon: &Daemon, figures: &BTreeMap<String, f64>) {
    let text = fs::read(daemon.config_path()).unwrap();
    let sum = cmd::check(&mut Command::new("sha256sum"), &text).unwrap();
    let sum = sum.split(' ').next().unwrap();
    assert_eq!(figures[&format!("tunless_config_info{{sha256=\"{sum}\"}}")], 1.0);
    let version = daemon.cli_json(&["version"]).unwrap();
    let build = figures.keys().find(|series| series.starts_with("tunless_build_info{")).unwrap();
    assert!(build.contains(version["version"].as_str().unwrap()), "{build}: {version}");
    let series = r#"tunless_settings_info{mode="replace",fastpath="verified",spoof="drop"}"#;
    for series in [series, "tunless_ready", "tunless_maps_readable"] {
        assert_eq!(figures[series], 1.0, "{series}");
    }
    assert_eq!(figures[r#"tunless_source_synced{source="file"}"#], 1.0);
    for code in Code::ALL {
        let (code, level) = (code.as_str(), code.level().as_str());
        let series = format!("tunless_problems{{code=\"{code}\",level=\"{level}\"}}");
        assert_eq!(figures[&series], 0.0, "{series}");
    }
    assert!(figures[r#"tunless_reconciles_total{extent="whole"}"#] >= 1.0);
    assert_eq!(figures["tunless_reconcile_failures_total"], 0.0);
    let (start, last) = ("tunless_start_time_seconds", "tunless_reconcile_last_timestamp_seconds");
    assert!(figures[start] <= figures[last] + 1.0);
}

/// A problem is a figure with its code, and since when.
#[test]
fn a_problem_and_a_refused_file_are_figures() {
    let lab = Lab::new().build().unwrap();
    let node = &lab.node2;
    let good = Setup::OFF.config(node, &lab.node1, "");
    let mut daemon = Daemon::start(node, &good).unwrap();
    let series = r#"tunless_problems{code="config-refused",level="degraded"}"#;
    assert_eq!(get(node, "/metrics").figure(series), 0.0);
    let accepted = get(node, "/metrics").figures();
    let config = |figures: &BTreeMap<String, f64>| {
        figures.keys().find(|series| series.starts_with("tunless_config_info")).cloned()
    };
    daemon.replace_config(&format!("{good}bogus: 1\n")).unwrap();
    let refused = until("the refusal is a figure", SOON, || {
        let figures = get(node, "/metrics").figures();
        (figures[series] == 1.0).then_some(figures)
    });
    assert_eq!(refused["tunless_config_last_reload_successful"], 0.0);
    assert_eq!(refused["tunless_ready"], 1.0, "it is degraded");
    assert!(refused[r#"tunless_problem_since_timestamp_seconds{code="config-refused"}"#] > 1e9);
    assert_eq!(config(&refused), config(&accepted), "the hash is that of the active file");
    assert!(get(node, "/readyz").body.contains("\nconfig-refused degraded for "));
    let other = format!("{good}log_spoofs: true\n");
    daemon.replace_config(&other).unwrap();
    daemon.reload().unwrap();
    until("the new file is active", SOON, || {
        let figures = get(node, "/metrics").figures();
        (figures["tunless_config_last_reload_successful"] == 1.0
            && config(&figures) != config(&accepted))
        .then_some(())
    });
    daemon.finish().unwrap();
}

#[test]
fn promtool_finds_no_fault_in_the_figures() {
    let scene = scene();
    let node = &scene.lab.node2;
    let text = ask(node, "GET", "/metrics", "").unwrap();
    assert!(text.head.contains("content-type: text/plain; version=0.0.4"), "{}", text.head);
    let output = promtool(&["check", "metrics"], &text.body).unwrap();
    assert!(output.success(), "{}{}", output.stdout, output.stderr);
    assert_eq!(output.stderr, "");

    let open = ask(node, "GET", "/metrics", OPEN_METRICS).unwrap();
    let kind = "content-type: application/openmetrics-text; version=1.0.0";
    assert!(open.head.contains(kind), "{}", open.head);
    assert!(open.body.ends_with("\n# EOF\n"));
    let names = |answer: &Answer| -> Vec<String> { answer.figures().into_keys().collect() };
    assert_eq!(names(&open), names(&text), "both formats have all series");

    // All that the document lists is there, but for what only a faulty node has, and for what
    // only a source beside the file has.
    let absent = [Metric::ProblemSince, Metric::SourceStale, Metric::SourceReport];
    for metric in Metric::ALL.iter().filter(|metric| !absent.contains(metric)) {
        let line = format!("# TYPE {} {}", metric.name(), metric.kind().as_str());
        assert!(text.body.lines().any(|it| it == line), "no `{line}`");
    }
    scene.finish();
}

fn packaging(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(file);
    path.canonicalize().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn the_alerts_come_when_they_should() {
    for arguments in
        [["check", "tunless.rules.yaml"].as_slice(), &["test", "tunless.rules.test.yaml"]]
    {
        let file = packaging(arguments[1]);
        let output = promtool(&[arguments[0], "rules", &file], "").unwrap();
        assert!(output.success(), "{}{}", output.stdout, output.stderr);
        assert!(output.stdout.contains("SUCCESS"), "{}", output.stdout);
    }
    // Each of them is played.
    let read = |file: &str| fs::read_to_string(packaging(file)).unwrap();
    let (rules, tests) = (read("tunless.rules.yaml"), read("tunless.rules.test.yaml"));
    let names: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} is never expected");
        assert!(tests.contains(&format!("alertname: {name}, exp_alerts: []")), "{name}");
    }
}

/// Every query of the dashboard, with its variables filled in, and where it is.
fn queries() -> Vec<(String, String)> {
    let panels = dashboard::read(Path::new(&packaging("grafana-dashboard.json"))).unwrap();
    let queries = panels.iter().flat_map(|panel| {
        let queries = panel.targets.iter().map(|target| target.query("5s").unwrap());
        queries.map(|query| (panel.title.clone(), query))
    });
    queries.collect()
}

/// A real Prometheus understands the figures, and finds data for all that dashboard and alerts ask.
#[test]
fn a_prometheus_scrapes_and_the_dashboard_has_data() {
    let scene = scene();
    let node = &scene.lab.node2;
    let rules = packaging("tunless.rules.yaml");
    let prometheus = Prometheus::start(node, &[DEFAULT.to_string()], Path::new(&rules)).unwrap();
    let queries = queries();
    assert!(queries.len() > 15, "{queries:?}");
    for (title, query) in &queries {
        until(&format!("{title}: {query}"), SOON, || {
            assert_answered(&scene.lab.perf().netns, scene.lab.sit().ip);
            let found =
                prometheus.query(query).unwrap_or_else(|error| panic!("{title}: {error:#}"));
            let is_number =
                |series: &Value| series["value"][1].as_str().is_some_and(|value| value != "NaN");
            (!found.is_empty() && found.iter().any(is_number)).then_some(())
        });
    }
    let targets = prometheus.targets().unwrap();
    let target = &targets["data"]["activeTargets"][0];
    assert_eq!((&target["health"], &target["lastError"]), (&"up".into(), &"".into()), "{target}");
    // It asks for OpenMetrics: counters have their type.
    let moved =
        prometheus.query("tunless_packets_total{reason=\"decap_no_ports_to_stack\"}").unwrap();
    assert!(moved[0]["value"][1].as_str().unwrap().parse::<f64>().unwrap() > 0.0);
    assert_eq!(prometheus.query("ALERTS").unwrap(), Vec::<Value>::new(), "the node is healthy");
    drop(prometheus);
    scene.finish();
}

/// Leases that are good are counted, each direction for itself.
#[test]
fn good_leases_are_counted() {
    let scene = Scene::new(Lab::new().fabric_filter(true), Setup::VERIFIED);
    scene.warm_up();
    let talks = scene.talks();
    until("as many leases as are listed", SOON, || {
        assert_all_answer(&talks);
        let count = |direction: &str| {
            leases(&scene.daemon2).iter().filter(|lease| lease.direction == direction).count()
        };
        let listed = [count("encap"), count("decap")];
        let answer = get(&scene.lab.node2, "/metrics");
        let figure = |direction: &str| {
            answer.figure(&format!("tunless_leases{{direction=\"{direction}\"}}")) as usize
        };
        let is_same = listed == [figure("encap"), figure("decap")];
        (is_same && listed.iter().all(|count| *count > 0)).then_some(())
    });
    drop(talks);
    scene.finish();
}

/// More leases than one system call reads: each is counted once, and none that has expired is good.
#[test]
fn a_large_map_of_leases_is_counted_whole() {
    const LEASES: u32 = 40_000;
    let lab = Lab::new().build().unwrap();
    let node = &lab.node2;
    let daemon = Daemon::start(node, &Setup::VERIFIED.config(node, &lab.node1, "")).unwrap();
    let version = daemon.cli_json(&["version"]).unwrap();
    let pin = node.bpffs.join(format!("v{}", version["abi"].as_str().unwrap())).join("LEASES");
    let map = Map::LruHashMap(MapData::from_pin(pin).unwrap());
    let mut map: HashMap<MapData, Flow, Lease> = map.try_into().unwrap();
    let series = r#"tunless_map_entries{map="LEASES"}"#;
    assert_eq!(get(node, "/metrics").figure(series), 0.0);
    for number in 0..LEASES {
        let flow = Flow { source: Ipv4Be(number), protocol: 6, ..Flow::default() };
        map.insert(flow, Lease::default(), 0).unwrap();
    }
    let answer = until("all are counted", SOON, || {
        let answer = get(node, "/metrics");
        (answer.figure(series) == f64::from(LEASES)).then_some(answer)
    });
    for direction in ["encap", "decap"] {
        let good = format!("tunless_leases{{direction=\"{direction}\"}}");
        assert_eq!(answer.figure(&good), 0.0, "{direction}");
    }
    let took = answer.figure("tunless_maps_read_duration_seconds");
    println!("{LEASES} leases are read in {:.1} ms", took * 1e3);
    daemon.finish().unwrap();
}
