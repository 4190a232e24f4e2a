//! The broker under load: workers share the load, die, and are replaced by new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::program::{Program, python_plugin};
use crate::support::server::TestServer;

const WORKERS: usize = 3;
const CLIENTS: usize = 8;
/// The number of answers after which the next worker is killed.
const ANSWERS_PER_KILL: usize = 150;
const KILLS: usize = 9;
/// The kill after which a new generation is deployed.
const DEPLOYED_AFTER: usize = 4;

/// The workers' books, and the workers that write them.
struct Crew<'a> {
    server: &'a TestServer,
    folder: &'a Path,
    generation: usize,
    hired: usize,
    workers: Vec<Program>,
}

impl<'a> Crew<'a> {
    fn new(server: &'a TestServer, folder: &'a Path) -> Self {
        Self {
            server,
            folder,
            generation: 0,
            hired: 0,
            workers: Vec::new(),
        }
    }

    fn hire(&mut self) {
        let command = python_plugin(self.server, "tests/plugin/at_work.py");
        // The file does not call `run` itself.
        let words: Vec<_> = command.get_args().collect();
        let (file, python) = words.split_last().unwrap();
        let mut worker = Command::new(command.get_program());
        worker.args(python).args(["-m", "skytrail"]).arg(file);
        for (name, value) in command.get_envs() {
            worker.env(name, value.unwrap());
        }
        worker
            .env("WORKER", format!("worker-{}", self.hired))
            .env("BOOK", self.folder.join(format!("{}.book", self.hired)))
            .env("PLUGIN_GENERATION", self.generation.to_string())
            .env("LOG_LEVEL", "ERROR");
        self.hired += 1;
        self.workers.push(Program::start(&mut worker));
    }

    /// Waits until `number` workers of the generation serve.
    fn await_workers(&self, number: usize) {
        let master = Client::master(self.server);
        eventually(&format!("{number} workers serve"), || {
            let state = master.call("plugin:list", json!({})).result();
            let workers = state["plugins"][0]["workers"].as_array()?.clone();
            let serves = |worker: &&Json| {
                worker["stage"] == "Ready"
                    && worker["generation"] == self.generation
                    && worker["is_suspended"] == false
            };
            (workers.iter().filter(serves).count() >= number).then_some(())
        });
    }

    /// Kills the oldest worker and hires another.
    fn replace_one(&mut self) {
        drop(self.workers.remove(0));
        self.hire();
    }
}

/// Returns everything that the workers wrote, in each worker's order.
fn books(folder: &Path) -> Vec<(String, String)> {
    let files = std::fs::read_dir(folder).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let books = files.filter(|path: &PathBuf| path.extension().is_some_and(|it| it == "book"));
    let lines = books.flat_map(|path| {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    });
    let pair = |line: String| {
        let (what, about) = line.split_once(' ').unwrap();
        (what.to_owned(), about.to_owned())
    };
    lines.map(pair).collect()
}

fn count(books: &[(String, String)], what: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (_, about) in books.iter().filter(|(did, _)| did == what) {
        *counts.entry(about.clone()).or_default() += 1;
    }
    counts
}

#[test]
fn workers_share_what_there_is_to_do_evenly() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::with(&[("PLUGINS", "WORK")]);
    let mut crew = Crew::new(&server, folder.path());
    (0..WORKERS).for_each(|_| crew.hire());
    crew.await_workers(WORKERS);
    let client = Client::anonymous(&server);
    let ask = |number: usize| {
        let client = client.clone();
        let asked = move || {
            let ask = |turn| {
                let body = json!({"args": [format!("{number}-{turn}")]});
                client.call("work:do", body).result()
            };
            (0..150).map(ask).collect::<Vec<_>>()
        };
        std::thread::spawn(asked)
    };
    let asked: Vec<_> = (0..CLIENTS).map(ask).collect();
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for worker in asked.into_iter().flat_map(|asked| asked.join().unwrap()) {
        *shares
            .entry(worker.as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    let mean = shares.values().sum::<usize>() / WORKERS;
    println!("shares: {shares:?}");
    assert_eq!(shares.len(), WORKERS);
    // One that the machine lets wait for a while does less, and the others more.
    assert!(shares.values().all(|share| share * 4 >= mean), "{shares:?}");
}

/// What a client did and saw.
#[derive(Default)]
struct Seen {
    /// Tokens of lambdas that answered.
    done: BTreeSet<String>,
    /// Keys of stored records.
    saved: BTreeSet<String>,
    num_lost: usize,
    undocumented: Vec<Json>,
}

impl Seen {
    /// Records an error; the only expected one is for work that was on a killed worker.
    fn note_error(&mut self, error: &Json) {
        let is_lost = error["code"] == 118 && error["info"]["reason"] == "worker-lost";
        if is_lost {
            self.num_lost += 1;
        } else {
            self.undocumented.push(error.clone());
        }
    }
}

/// Calls lambdas and saves records in turn until told to stop.
fn use_it(server: &TestServer, number: usize, ended: &AtomicBool, answers: &AtomicUsize) -> Seen {
    let client = Client::master(server);
    let mut seen = Seen::default();
    for turn in 0.. {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let token = format!("{number}-{turn}");
        if turn % 2 == 0 {
            let answer = client.call("work:do", json!({"args": [token]})).json();
            match answer.get("error") {
                None => drop(seen.done.insert(token)),
                Some(error) => seen.note_error(error),
            }
        } else {
            let records = json!([{"_id": format!("job/{token}"), "turn": turn}]);
            let answer = client
                .call("record:save", json!({"records": records}))
                .result();
            if answer[0]["_type"] == "error" {
                seen.note_error(&answer[0]);
            } else {
                seen.saved.insert(token);
            }
        }
        answers.fetch_add(1, Ordering::Relaxed);
    }
    seen
}

#[test]
fn workers_die_and_are_replaced_while_clients_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("PLUGINS", "WORK"), ("PLUGIN_RESUME", "1")];
    let server = TestServer::with(&settings);
    let mut crew = Crew::new(&server, folder.path());
    (0..WORKERS).for_each(|_| crew.hire());
    crew.await_workers(WORKERS);
    Client::master(&server).save("job/first", json!({"turn": 0}));

    let (ended, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let all_seen: Vec<Seen> = std::thread::scope(|scope| {
        let (server, ended, answers) = (&server, &ended, &answers);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(move || use_it(server, number, ended, answers)))
            .collect();
        for kill in 1..=KILLS {
            eventually("clients are answered", || {
                let enough = answers.load(Ordering::Relaxed) >= kill * ANSWERS_PER_KILL;
                enough.then_some(())
            });
            crew.replace_one();
            if kill == DEPLOYED_AFTER {
                // The old workers end by themselves once they have finished their work.
                crew.generation += 1;
                (0..WORKERS).for_each(|_| crew.hire());
                crew.await_workers(WORKERS);
                crew.workers.drain(..WORKERS).for_each(|mut old| {
                    old.wait();
                });
            }
            crew.await_workers(WORKERS - 1);
        }
        ended.store(true, Ordering::Relaxed);
        clients.into_iter().map(|it| it.join().unwrap()).collect()
    });

    let undocumented: Vec<_> = all_seen
        .iter()
        .flat_map(|seen| &seen.undocumented)
        .collect();
    assert!(undocumented.is_empty(), "{undocumented:?}");
    let saved: BTreeSet<&String> = all_seen.iter().flat_map(|seen| &seen.saved).collect();
    eventually("all after-events have come", || {
        let after = count(&books(folder.path()), "after");
        saved
            .iter()
            .all(|key| after.contains_key(*key))
            .then_some(())
    });
    let books = books(folder.path());
    let did = count(&books, "did");
    for token in all_seen.iter().flat_map(|seen| &seen.done) {
        assert!(did.contains_key(token), "{token} was answered by nobody");
    }
    for what in ["did", "before"] {
        let twice: Vec<_> = count(&books, what)
            .into_iter()
            .filter(|it| it.1 > 1)
            .collect();
        assert!(twice.is_empty(), "{what} twice: {twice:?}");
    }
    let num_lost: usize = all_seen.iter().map(|seen| seen.num_lost).sum();
    println!(
        "{} answers, {} saved, {num_lost} lost with {KILLS} workers",
        answers.load(Ordering::Relaxed),
        saved.len(),
    );
}
