//! Following a BIRD that misbehaves, which real ones cannot be made to.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

use super::*;
use crate::sources::SourceKind;

const SOON: Duration = Duration::from_secs(20);
const GREETING: &str = "0001 BIRD 2.0.12 ready.\n";
const A: &str = "10.20.42.0/26 via 172.16.35.4";
const B: &str = "10.20.7.64/26 via 172.16.34.7";

/// What a BIRD answers: its start, its table, its state.
#[derive(Clone)]
struct Script {
    greeting: &'static str,
    boot: &'static str,
    state: &'static str,
    session: &'static str,
    table: Vec<&'static str>,
    /// Raw text instead of a table.
    raw_table: Option<&'static str>,
}

impl Script {
    fn new(table: &[&'static str]) -> Self {
        Self {
            greeting: GREETING,
            boot: "2026-11-25 10:00:00.000",
            state: "Daemon is up and running",
            session: "up     10:00:05.000  Established",
            table: table.to_vec(),
            raw_table: None,
        }
    }

    fn answer(&self, question: &str, count: usize) -> Option<String> {
        Some(match question {
            "restrict" => "0016 Access restricted\n".to_owned(),
            "show protocols all" => format!(
                "2002-Name       Proto      Table      State  Since         Info\n\
                 1002-m1         BGP        ---        {}\n1006-  Channel ipv4\n     \
                 Routes:         {} imported, 1 exported, 2 preferred\n       \
                 Import updates:   {count}  0 0 0 0\n0000 \n",
                self.session,
                self.table.len(),
            ),
            "show status" => format!(
                "1011-Current server time is 2026-11-25 12:00:00.000\n \
                 Last reboot on {}\n0013 {}\n",
                self.boot, self.state
            ),
            "show route table master4 all" => match self.raw_table {
                Some(raw) => raw.to_owned(),
                None => {
                    let route = |route: &&str| {
                        let (prefix, node) = route.split_once(" via ").unwrap();
                        format!(
                            "1007-{prefix} unicast [m1 10:00:05 from {node}] * (100) [i]\n\
                             1008-\tType: BGP univ\n1012-\tBGP.next_hop: {node}\n"
                        )
                    };
                    let routes: String = self.table.iter().map(route).collect();
                    format!("1007-Table master4:\n{routes}0000 \n")
                }
            },
            _ => return None,
        })
    }
}

/// A socket, and what has been reported.
struct Scene {
    directory: TempDir,
    reports: UnboundedReceiver<(SourceKind, Report)>,
    is_down: bool,
    problems: Vec<(Origin, String)>,
}

impl Scene {
    /// Runs `test` beside the source.
    fn run(settle_seconds: u64, test: impl AsyncFnOnce(&mut Self)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let (sender, reports) = unbounded_channel();
            let config = BirdConfig {
                socket: directory.path().join("bird.ctl"),
                poll_milliseconds: 100,
                settle_seconds,
                ..BirdConfig::default()
            };
            let me = Me { name: "me".into(), address: Some([172, 16, 36, 10].into()) };
            let source = tokio::spawn(super::super::run(
                config,
                me,
                Reporter::new(SourceKind::Bird, sender),
            ));
            let mut scene = Self { directory, reports, is_down: false, problems: Vec::new() };
            test(&mut scene).await;
            assert!(!source.is_finished(), "the source has ended");
            source.abort();
        });
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("bird.ctl")
    }

    /// Plays these BIRDs one after the other, each for one connection: all of its
    /// states, the last for as long as the connection lasts.
    fn play(&self, birds: Vec<Vec<Script>>) -> tokio::task::JoinHandle<()> {
        let listener = listen(&self.socket());
        tokio::spawn(async move {
            for states in birds {
                let (stream, _) = listener.accept().await.unwrap();
                serve(stream, states.into()).await;
            }
        })
    }

    /// Skips what was reported before: that it is up, and the same problems.
    async fn next(&mut self) -> Report {
        loop {
            let report = timeout(SOON, self.reports.recv()).await.expect("a report in time");
            let report = report.unwrap().1;
            match &report {
                Report::Up if !self.is_down => continue,
                // No test here is about them.
                Report::Names(_) => continue,
                Report::Problems(problems) if *problems == self.problems => continue,
                Report::Problems(problems) => self.problems.clone_from(problems),
                Report::Snapshot { problems, .. } => {
                    self.problems.clone_from(problems);
                    self.is_down = false;
                }
                Report::Down(_) => self.is_down = true,
                Report::Up => self.is_down = false,
                Report::Changes(_)
                | Report::Problem(..)
                | Report::OwnNode(_)
                | Report::Reads(_)
                | Report::Servers(_)
                | Report::Backends(_) => {}
            }
            return report;
        }
    }

    /// Skips repetitions of being down; the reports until then are lost.
    async fn next_but_down(&mut self) -> Report {
        loop {
            match self.next().await {
                Report::Down(_) => {}
                report => return report,
            }
        }
    }

    async fn down(&mut self) -> String {
        loop {
            if let Report::Down(why) = self.next().await {
                return why.to_string();
            }
        }
    }

    async fn down_with(&mut self, words: &str) {
        let wait = async { while !self.down().await.contains(words) {} };
        timeout(SOON, wait).await.unwrap_or_else(|_| panic!("it never said `{words}`"));
    }
}

fn listen(socket: &Path) -> UnixListener {
    let _ = std::fs::remove_file(socket);
    UnixListener::bind(socket).unwrap()
}

/// Each state answers one round of questions; the connection ends at an answer
/// that has none, and after the last state, if that says so.
async fn serve(stream: UnixStream, mut states: VecDeque<Script>) {
    let mut stream = BufReader::new(stream);
    let greeting = states[0].greeting;
    if stream.write_all(greeting.as_bytes()).await.is_err() {
        return;
    }
    let (mut count, mut rounds) = (0, 0);
    let mut question = String::new();
    while stream.read_line(&mut question).await.is_ok_and(|length| length > 0) {
        let word = question.trim_end().to_owned();
        question.clear();
        if word == "show protocols all" {
            rounds += 1;
            if rounds > 1 && states.len() > 1 {
                states.pop_front();
                count += 1;
            }
        }
        let Some(answer) = states[0].answer(&word, count) else { return };
        if stream.write_all(answer.as_bytes()).await.is_err()
            || !answer.contains("\n0") && word != "restrict"
        {
            return;
        }
    }
}

fn nodes(report: &Report) -> Vec<String> {
    let Report::Snapshot { claims, .. } = report else { panic!("no snapshot: {report:?}") };
    claims.iter().map(text).collect()
}

fn text(change: &Change) -> String {
    match change.claim {
        Some(claim) => format!("{} via {}", change.cidr, claim.node),
        None => format!("{} gone", change.cidr),
    }
}

fn changes(report: &Report) -> Vec<String> {
    let Report::Changes(changes) = report else { panic!("no changes: {report:?}") };
    changes.iter().map(text).collect()
}

#[test]
fn nobody_there_and_not_bird_are_told_apart() {
    Scene::run(60, async |scene| {
        scene.down_with("cannot connect: No such file or directory").await;
        let web = Script { greeting: "HTTP/1.1 400 Bad Request\r\n", ..Script::new(&[]) };
        let other = Script { greeting: "0017 Something else\n", ..Script::new(&[]) };
        let birds = scene.play(vec![vec![web], vec![other]]);
        scene.down_with("not BIRD's language: HTTP/1.1 400").await;
        scene.down_with("does not greet as BIRD").await;
        birds.await.unwrap();
        scene.down_with("cannot connect: Connection refused").await;
    });
}

#[test]
fn the_table_of_bird_1_is_named_where_that_of_bird_2_is_asked_for() {
    const REFUSED: &str =
        "9001 syntax error, unexpected CF_SYM_UNDEFINED, expecting CF_SYM_KNOWN\n";
    let script = |greeting| Script { greeting, raw_table: Some(REFUSED), ..Script::new(&[]) };
    Scene::run(60, async |scene| {
        let birds = vec![vec![script(GREETING)], vec![script("0001 BIRD 1.6.8 ready.\n")]];
        let _birds = scene.play(birds);
        let second = scene.down().await;
        assert!(second.contains("expecting CF_SYM_KNOWN") && !second.contains("1.6"), "{second}");
        scene.down_with("its own is `master`: set sources.bird.table").await;
    });
}

#[test]
fn a_table_is_told_whole_and_then_by_what_changes() {
    Scene::run(60, async |scene| {
        let states = [&[A][..], &[A, B], &[B], &["10.20.7.64/26 via 172.16.35.5"]];
        let _bird = scene.play(vec![states.map(Script::new).to_vec()]);
        assert_eq!(nodes(&scene.next_but_down().await), [A]);
        assert_eq!(changes(&scene.next().await), [B]);
        assert_eq!(changes(&scene.next().await), ["10.20.42.0/26 gone"]);
        // A new next hop is a new origin: made and taken back in one step.
        let moved = changes(&scene.next().await);
        assert_eq!(moved, ["10.20.7.64/26 via 172.16.35.5", "10.20.7.64/26 gone"]);
    });
}

#[test]
fn a_bird_that_takes_its_routes_back_to_stop_takes_none_of_ours() {
    Scene::run(60, async |scene| {
        let stopping = Script { state: "Shutdown in progress", ..Script::new(&[]) };
        let back = Script::new(&[A, B]);
        let _birds = scene.play(vec![vec![Script::new(&[A]), stopping], vec![back]]);
        assert_eq!(nodes(&scene.next_but_down().await), [A]);
        let why = scene.down().await;
        assert!(why.starts_with("BIRD at /") && why.ends_with("it is shutting down"), "{why}");
        assert_eq!(nodes(&scene.next_but_down().await), [B, A]);
    });
}

#[test]
fn half_a_table_counts_for_nothing() {
    Scene::run(60, async |scene| {
        let half = Script { raw_table: Some("1007-Table master4:\n"), ..Script::new(&[A, B]) };
        let noise = Script { raw_table: Some("1007-Table master4:\n~~~\n0000 \n"), ..half.clone() };
        let refused = Script {
            raw_table: Some("9001 syntax error, unexpected CF_SYM_UNDEFINED\n"),
            ..half.clone()
        };
        let line = format!("1007-Table master4:\n{}", "x".repeat(1 << 17));
        let long = Script { raw_table: Some(line.leak()), ..half.clone() };
        let first = Script::new(&[A]);
        let _birds = scene.play(vec![
            vec![first.clone(), half],
            vec![noise],
            vec![refused],
            vec![long],
            vec![first],
        ]);
        assert_eq!(nodes(&scene.next_but_down().await), [A]);
        scene.down_with("BIRD closed the control socket").await;
        scene.down_with("this is not BIRD's language: ~~~").await;
        scene.down_with("`show route table master4 all`: refused: 9001 syntax error").await;
        scene.down_with("BIRD sent a line longer than 64 KiB").await;
        assert_eq!(nodes(&scene.next_but_down().await), [A]);
    });
}

#[test]
fn what_cannot_be_read_any_more_stays() {
    Scene::run(60, async |scene| {
        let unclear = Script {
            raw_table: Some(
                "1007-10.20.42.0/26 unicast [m1 10:00:05] * (100) [i]\n1008-\tType: BGP univ\n\
                 1007-10.20.9.0/26 unicast [m1 10:00:05] * (100) [i]\n1008-\tType: BGP univ\n\
                 1012-\tBGP.next_hop: 172.16.35.4\n0000 \n",
            ),
            ..Script::new(&[])
        };
        let nothing = Script { raw_table: Some("1007-garbled\n0000 \n"), ..Script::new(&[]) };
        let _birds = scene.play(vec![vec![Script::new(&[A, B]), unclear, nothing]]);
        assert_eq!(nodes(&scene.next_but_down().await).len(), 2);
        assert_eq!(
            changes(&scene.next().await),
            ["10.20.9.0/26 via 172.16.35.4", "10.20.7.64/26 gone"]
        );
        let problem = scene.next().await;
        let Report::Problems(problems) = &problem else { panic!("{problem:?}") };
        let [(origin, why)] = &problems[..] else { panic!("{problem:?}") };
        assert_eq!(&**origin, "10.20.42.0/26");
        assert!(why.contains("no BGP next hop"), "{why}");
        scene.down_with("nothing in table master4 is understood: garbled").await;
    });
}

/// Another BIRD than before, whose sessions are not up: what is new counts, what is
/// missing does not, until it is settled.
#[test]
fn a_young_bird_takes_nothing_back_until_its_sessions_are_up() {
    Scene::run(60, async |scene| {
        let young = Script {
            boot: "2026-11-25 11:59:59.000",
            session: "start  11:59:59.000  Active        Socket: No route to host",
            ..Script::new(&[B])
        };
        let up = Script { session: "up     12:00:04.000  Established", ..young.clone() };
        let _birds = scene.play(vec![
            vec![Script::new(&[A]), Script { state: "Shutdown in progress", ..Script::new(&[]) }],
            vec![young.clone(), young.clone(), young, up],
        ]);
        assert_eq!(nodes(&scene.next_but_down().await), [A]);
        scene.down_with("shutting down").await;
        assert_eq!(changes(&scene.next_but_down().await), [B]);
        scene.down_with("it has just started").await;
        assert_eq!(nodes(&scene.next_but_down().await), [B]);
    });
}

#[test]
fn sessions_that_never_come_up_are_not_waited_for_for_ever() {
    Scene::run(1, async |scene| {
        let young = Script {
            boot: "2026-11-25 12:00:00.000",
            session: "start  12:00:00.000  Active        Socket: No route to host",
            ..Script::new(&[A])
        };
        let _bird = scene.play(vec![vec![young]]);
        assert_eq!(changes(&scene.next_but_down().await), [A]);
        assert_eq!(nodes(&scene.next_but_down().await), [A]);
    });
}

#[test]
fn a_bird_between_two_configurations_takes_nothing_back() {
    Scene::run(60, async |scene| {
        let changing = Script { state: "Reconfiguration in progress", ..Script::new(&[]) };
        let _bird = scene.play(vec![vec![
            Script::new(&[A]),
            changing.clone(),
            changing,
            Script::new(&[B]),
        ]]);
        assert_eq!(nodes(&scene.next_but_down().await), [A]);
        scene.down_with("it is changing its configuration").await;
        assert_eq!(changes(&scene.next_but_down().await), [B, "10.20.42.0/26 gone"]);
        assert_eq!(scene.next_but_down().await, Report::Up);
    });
}
