//! What every command prints as JSON is as the schemas in `docs/schema` say, and the daemon's report, too.
//!
//! The lab validates all JSON that `tunless` prints in any test. Here each command that has a schema is asked,
//! in each state of a node that changes what is printed.

use std::fs;

use serde_json::Value;
use tunless_lab::{
    Lab, LabBuilder, Node,
    daemon::Tunless,
    schemas::{self, faults},
};
use tunless_tests::scene::{SOON, Scene, Setup, leased::assert_all_answer, until};

/// Of these it takes a kernel with tunl0, or one that lets programs be watched: the library's own tests
/// compare them with their schemas.
const ELSEWHERE: [&str; 3] = ["shadow report", "trace", "try"];

fn lab() -> LabBuilder {
    Lab::new().fabric_filter(true)
}

/// The names of all schemas that the program has.
fn names(tunless: &Tunless) -> Vec<String> {
    let listed = tunless.run(&["schema"]).unwrap();
    assert_eq!((listed.status, listed.stderr.as_str()), (Some(0), ""));
    listed.stdout.lines().map(str::to_owned).collect()
}

/// The command line, or several, for a name; none for what is no command, or is asked otherwise.
fn questions(name: &str, [own, remote]: [&str; 2]) -> Vec<Vec<String>> {
    let more: Vec<Vec<&str>> = match name {
        "report" | "detach" => Vec::new(),
        name if ELSEWHERE.contains(&name) => Vec::new(),
        "explain" => vec![
            vec!["--from", own, "--to", remote],
            vec!["--from", remote, "--to", own, "--protocol", "udp"],
            vec!["--from", own, "--to", "192.0.2.7:53", "--protocol", "udp"],
        ],
        "routes get" => vec![vec![remote], vec![own], vec!["192.0.2.7"]],
        "counters list" => vec![vec![], vec!["--drops"], vec!["--rate=100ms"]],
        "config validate" => vec![vec![], vec!["--here"]],
        "config show" => vec![vec![], vec!["--active"]],
        _ => vec![vec![]],
    };
    let line = |more: Vec<&str>| name.split(' ').chain(more).map(str::to_owned).collect();
    more.into_iter().map(line).collect()
}

/// Asks every command for JSON, which the lab validates, and reads the daemon's report.
fn ask_everything(scene: &Scene) {
    let (own, remote) = (scene.lab.perf().ip.to_string(), scene.lab.sit().ip.to_string());
    let tunless = scene.daemon2.tunless();
    for name in names(tunless) {
        for question in questions(&name, [&own, &remote]) {
            let question: Vec<&str> = question.iter().map(String::as_str).collect();
            let answer = tunless.run(&[&question, ["-o", "json"].as_slice()].concat()).unwrap();
            assert!(matches!(answer.status, Some(0 | 3)), "{question:?}: {answer:?}");
            assert!(answer.stdout.starts_with('{'), "{question:?}: {answer:?}");
        }
    }
    let report = report(&scene.lab.node2);
    assert_eq!(faults("report", &report), Vec::<String>::new(), "{report:#}");
}

fn report(node: &Node) -> Value {
    serde_json::from_str(&fs::read_to_string(node.run_file("state.json")).unwrap()).unwrap()
}

#[test]
fn every_command_prints_what_its_schema_says() {
    Scene::new(lab(), Setup::VERIFIED).case(|scene| {
        ask_everything(scene);

        scene.warm_up();
        let talks = scene.talks();
        scene.assert_leased(&talks);
        assert_all_answer(&talks);
        ask_everything(scene);
        drop(talks);

        let node2 = scene.lab.node2.clone();
        node2.netns.ip(&format!("route add 10.20.42.0/27 via {}", node2.gateway)).unwrap();
        until("the problem is in the report", SOON, || {
            let problems = report(&node2)["problems"].take();
            let found = problems.as_array().unwrap().iter().map(|problem| &problem["code"]);
            found.into_iter().any(|code| code == "foreign-route").then_some(())
        });
        ask_everything(scene);
        node2.netns.ip("route del 10.20.42.0/27").unwrap();

        scene.daemon2.kill9().unwrap();
        ask_everything(scene);
        scene.daemon2.restart().unwrap();
    });
}

/// Before the first start, and after the last.
#[test]
fn what_needs_no_daemon_has_its_schema() {
    let mut scene = Scene::new(lab(), Setup::OFF);
    scene.daemon2.terminate().unwrap();
    let printed = scene.daemon2.cli_json(&["detach"]).unwrap();
    assert!(printed["removed"].as_array().is_some_and(|removed| !removed.is_empty()), "{printed}");
    let again = scene.daemon2.cli_json(&["detach"]).unwrap();
    assert_eq!(again["removed"], Value::Array(Vec::new()));
    for question in [["status"].as_slice(), &["doctor"]] {
        let answer = scene.daemon2.cli(&[question, &["-o", "json"]].concat()).unwrap();
        assert_eq!(answer.status, Some(3), "{question:?}: {answer:?}");
        assert!(answer.stdout.starts_with('{'), "{question:?}: {answer:?}");
    }
    for question in [["version"].as_slice(), &["config", "validate", "--here"], &["config", "show"]]
    {
        scene.daemon2.cli_json(question).unwrap();
    }
    scene.finish();
}

/// So that the tests above can fail.
#[test]
fn a_field_too_few_and_one_too_many_are_faults() {
    let scene = Scene::new(lab(), Setup::VERIFIED);
    let status = scene.daemon2.cli_json(&["status"]).unwrap();
    assert_eq!(faults("status", &status), Vec::<String>::new());
    for object in ["", "/daemon", "/attachments/0", "/fastpath_share/services", "/tunnel"] {
        let changed = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
            let mut changed = status.clone();
            change(changed.pointer_mut(object).unwrap().as_object_mut().unwrap());
            faults("status", &changed).len()
        };
        assert_eq!(changed(&|object| drop(object.insert("more".to_owned(), 1.into()))), 1);
        let fields = status.pointer(object).unwrap().as_object().unwrap();
        for name in fields.keys() {
            // Without a report of the daemon's there is nothing of the sources.
            let may_be_missing = ["sources", "alarms", "more_alarms"].contains(&name.as_str());
            let expected = usize::from(!may_be_missing);
            assert_eq!(changed(&|object| drop(object.remove(name))), expected, "{object}: {name}");
            let wrong = changed(&|object| drop(object.insert(name.clone(), [[0.5]].into())));
            assert_ne!(wrong, 0, "{object}: {name}");
        }
    }
    scene.finish();
}

/// A schema that a node prints is the published one.
#[test]
fn the_program_prints_the_published_schemas() {
    let lab = lab().build().unwrap();
    let tunless = Tunless::new(&lab.node2, None);
    let names = names(&tunless);
    for name in &names {
        let words: Vec<&str> = name.split(' ').collect();
        let printed = tunless.run(&[&["schema"], words.as_slice()].concat()).unwrap();
        assert_eq!((printed.status, printed.stderr.as_str()), (Some(0), ""), "{name}");
        assert_eq!(printed.stdout, schemas::text(&words.join("-")), "{name}");
    }
    let refused = tunless.run(&["schema", "top"]).unwrap();
    assert_eq!((refused.status, refused.stdout.as_str()), (Some(1), ""));
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("`top` prints no JSON"), "{}", refused.stderr);
}
