//! Scheduled tasks: what the plugin is sent, what the log claims, and what a restart does with
//! them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value as Json, json};
use skytrail_schema::time::Timestamp;

use super::http_plugin::{HttpPlugin, Reaction};
use super::worker::{Seen, Serving, Worker};
use super::{call, http, server};
use crate::support::client::{Client, send};
use crate::support::eventually;
use crate::support::machine::{Mount, faketime, skipped};
use crate::support::server::{MASTER_KEY, TestServer, lasting_address};

/// Longer than anything here should take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A spec that is not due while a test runs.
const RARELY: &str = "@yearly";

fn timers(timers: Json) -> Json {
    json!({"timer": timers})
}

fn ticking(spec: &str) -> Json {
    timers(json!([{"name": "tick", "spec": spec}]))
}

/// Connects a worker and waits until it serves, whatever arrives before. Returns the timer requests
/// that arrived.
fn join(server: &TestServer, hello: &Json, points: &Json) -> (Worker, Vec<Json>) {
    let mut worker = Worker::greet(server, hello);
    let mut ticks = Vec::new();
    loop {
        match worker.next(TIMEOUT) {
            Seen::Message(message) if message["kind"] == "timer" => ticks.push(message),
            Seen::Message(message) if message["type"] == "ready" => return (worker, ticks),
            Seen::Message(message) => answer_event(&mut worker, &message, points),
            other => panic!("not ready: {other:?}"),
        }
    }
}

fn answer_event(worker: &mut Worker, message: &Json, points: &Json) {
    if message["type"] == "request" {
        let is_init = message["name"] == "init";
        worker.answer(message, if is_init { points } else { &Json::Null });
    }
}

/// Waits for the timer's next request; events are answered.
fn next_tick(worker: &mut Worker) -> Json {
    loop {
        match worker.next(TIMEOUT) {
            Seen::Message(message) if message["kind"] == "timer" => return message,
            Seen::Message(message) => answer_event(worker, &message, &Json::Null),
            other => panic!("expected a tick, saw {other:?}"),
        }
    }
}

/// A plugin that answers every tick immediately, and counts them.
fn run_plugin(server: &TestServer, points: Json) -> (Serving, Arc<AtomicU64>) {
    let worker = Worker::greet(server, &json!({}));
    let num_ticks = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&num_ticks);
    let serving = worker.serve(move |worker, message| {
        if message["kind"] == "timer" {
            counted.fetch_add(1, Ordering::SeqCst);
            worker.answer(message, &json!("done"));
        } else {
            answer_event(worker, message, &points);
        }
    });
    (serving, num_ticks)
}

/// Returns the only task, as the server lists it.
fn task(server: &TestServer) -> Option<Json> {
    let listed = Client::master(server).call("task:list", json!({})).result();
    let tasks = listed["tasks"].as_array().unwrap();
    assert!(tasks.len() <= 1, "{listed}");
    tasks.first().cloned()
}

/// Waits until the only task is as wanted, and returns it.
fn await_task(server: &TestServer, what: &str, is_so: impl Fn(&Json) -> bool) -> Json {
    eventually(what, || task(server).filter(|task| is_so(task)))
}

/// Returns the payloads of a task's events of one kind, in order, with the times of their commits.
fn events(server: &TestServer, kind: &str) -> Vec<(Json, Json)> {
    let output = server.skytrail(&["log", "show", "task/TEST/tick"]).stdout;
    let all = serde_json::Deserializer::from_slice(&output).into_iter::<Json>();
    all.map(Result::unwrap)
        .filter(|event| event["kind"] == kind)
        .map(|event| (event["payload"].clone(), event["time"].clone()))
        .collect()
}

/// Returns when the claimed runs were due, in seconds.
fn claimed(server: &TestServer) -> Vec<i64> {
    let claims = events(server, "task.claimed");
    claims
        .iter()
        .map(|(claim, _)| second(&claim["due"]))
        .collect()
}

fn second(time: &Json) -> i64 {
    let micros = Timestamp::parse(time.as_str().unwrap()).unwrap().micros();
    micros / 1_000_000
}

#[test]
fn a_restart_in_the_middle_neither_doubles_nor_skips_a_run() {
    let mut server = server(&[]);
    let (first, first_ticks) = run_plugin(&server, ticking("* * * * * *"));
    eventually("runs", || {
        (first_ticks.load(Ordering::SeqCst) >= 3).then_some(())
    });
    server.kill();
    drop(first);
    let before = claimed(&server);
    let num_received = first_ticks.load(Ordering::SeqCst) as usize;
    // One run may have been claimed and not sent; none was sent without a claim.
    assert!(
        (num_received..=num_received + 1).contains(&before.len()),
        "{num_received} {before:?}"
    );
    server.restart();
    let (second_life, second_ticks) = run_plugin(&server, ticking("* * * * * *"));
    eventually("more runs", || {
        (second_ticks.load(Ordering::SeqCst) >= 3).then_some(())
    });
    let idle = await_task(&server, "the task is idle", |task| {
        task["running_since"].is_null()
    });
    server.terminate();
    drop(second_life);
    let all = claimed(&server);
    assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
    let after = &all[before.len()..];
    assert_eq!(after.len() as u64, second_ticks.load(Ordering::SeqCst));
    // Every second between the last claim before the kill and the last run was run or is accounted
    // for. The last missed run is made up for; those before it are skipped.
    let last_seen = second(&idle["last_run"]["due"]);
    let counted = |name: &str| idle[name].as_i64().unwrap();
    assert_eq!(
        last_seen - before.last().unwrap(),
        counted("runs") + counted("missed") + counted("skipped"),
        "{idle} {before:?} {after:?}"
    );
    // The first run after the restart was due before the plugin was connected.
    let starts = events(&server, "task.claimed");
    let (claim, began_at) = &starts[before.len()];
    assert!(second(&claim["due"]) <= second(began_at));
    // The log also has how each run ended, once each, including the last ones.
    let ends = events(&server, "task.ended");
    let ends: Vec<i64> = ends.iter().map(|(end, _)| second(&end["due"])).collect();
    assert!(
        after
            .iter()
            .all(|due| ends.iter().filter(|end| *end == due).count() == 1)
    );
    assert_eq!(events(&server, "task.scheduled").len(), 1);
}

#[test]
fn an_interval_keeps_its_phase_over_a_restart_and_a_changed_one_begins_anew() {
    let mut server = server(&[]);
    let (first, ticks) = run_plugin(&server, ticking("@every 3s"));
    eventually("a run", || {
        (ticks.load(Ordering::SeqCst) >= 1).then_some(())
    });
    server.kill();
    drop(first);
    server.restart();
    // The same schedule, written differently.
    let (second_life, ticks) = run_plugin(&server, ticking("@every 3000ms"));
    eventually("runs", || (ticks.load(Ordering::SeqCst) >= 2).then_some(()));
    let dues = claimed(&server);
    assert!(dues.iter().all(|due| (due - dues[0]) % 3 == 0), "{dues:?}");
    let schedules = events(&server, "task.scheduled");
    assert_eq!(schedules.len(), 1, "{schedules:?}");
    let since = second(&schedules[0].0["since"]);
    assert_eq!((dues[0] - since) % 3, 0);

    drop(second_life);
    let (_worker, _) = join(&server, &json!({"generation": 2}), &ticking("0 0 12 * * *"));
    let task = await_task(&server, "the new spec", |task| {
        task["spec"] == "0 0 12 * * *"
    });
    // A run that was on its way when the worker was dropped has failed.
    assert!(task["last_run"].is_object(), "{task}");
    assert_eq!(events(&server, "task.scheduled").len(), 2);
}

#[test]
fn a_task_is_passed_over_while_it_runs_unless_it_may_overlap() {
    let server = server(&[]);
    let (mut worker, mut ticks) = join(&server, &json!({}), &ticking("* * * * * *"));
    let tick = ticks.pop().unwrap_or_else(|| next_tick(&mut worker));
    assert_eq!(
        (&tick["name"], &tick["kind"]),
        (&json!("tick"), &json!("timer"))
    );
    assert_eq!(
        (tick.get("param"), tick.get("context")),
        (None, None),
        "{tick}"
    );
    let busy = await_task(&server, "skipped", |task| {
        task["skipped"].as_u64() >= Some(2)
    });
    assert_eq!(busy["last_run"]["outcome"], "running");
    assert!(busy["running_since"].is_string(), "{busy}");
    // A second run is refused even on request.
    let master = Client::master(&server);
    let asked = master.call("task:run", json!({"plugin": "TEST", "name": "tick"}));
    assert_eq!((asked.status, asked.code()), (409, 109));
    worker.answer(&tick, &Json::Null);
    let next = next_tick(&mut worker);
    assert_ne!(next["id"], tick["id"]);
    worker.answer(&next, &Json::Null);

    let overlapping = json!([{"name": "tick", "spec": "* * * * * *", "overlap": "allow"}]);
    let hello = json!({"generation": 2, "window": 8});
    let (mut other, mut ticks) = join(&server, &hello, &timers(overlapping));
    while ticks.len() < 3 {
        ticks.push(next_tick(&mut other));
    }
    let busy = task(&server).unwrap();
    assert_eq!(busy["overlap"], "allow");
    assert!(busy["running_since"].is_string(), "{busy}");
}

#[test]
fn an_end_that_the_log_cannot_take_comes_with_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let mount = match Mount::memory(&folder.path().join("disk"), "80m") {
        Ok(mount) => mount,
        Err(why) => return skipped("full disk", &why),
    };
    let data = mount.folder().join("data").to_string_lossy().into_owned();
    let server = server(&[("DATA_DIR", &data), ("DISK_RESERVE_BYTES", "8388608")]);
    let (mut worker, _) = join(&server, &json!({}), &ticking(RARELY));
    let master = Client::master(&server);
    let run = || {
        let name = json!({"plugin": "TEST", "name": "tick"});
        call(&master, "task:run", name)
    };
    let save = || {
        let body = json!({"records": [{"_id": "note/1", "text": "is there space?"}]});
        master.call("record:save", body).status
    };
    let asked = run();
    let tick = next_tick(&mut worker);
    mount.fill_but(0);
    eventually("the disk is full", || (save() == 507).then_some(()));
    worker.answer(&tick, &Json::Null);
    let ended = asked.join().unwrap().result();
    assert_eq!(ended["last_run"]["outcome"], "ok", "{ended}");
    assert_eq!(events(&server, "task.ended").len(), 0);

    mount.make_room();
    eventually("there is space", || (save() == 200).then_some(()));
    let asked = run();
    let tick = next_tick(&mut worker);
    assert_eq!(events(&server, "task.ended").len(), 1);
    worker.answer(&tick, &Json::Null);
    asked.join().unwrap().result();
    assert_eq!(events(&server, "task.ended").len(), 2);
}

#[test]
fn a_task_is_run_by_hand_from_the_api_and_from_the_command_line() {
    let server = server(&[]);
    let (mut worker, _) = join(&server, &json!({}), &ticking(RARELY));
    let task = await_task(&server, "the task", |task| task["next_run"].is_string());
    assert_eq!(task["last_run"], Json::Null);
    let master = Client::master(&server);
    let asked = call(
        &master,
        "task:run",
        json!({"plugin": "TEST", "name": "tick"}),
    );
    let tick = next_tick(&mut worker);
    worker.refuse(&tick, &json!({"code": 4711, "message": "no coffee"}));
    let ended = asked.join().unwrap().result();
    let run = &ended["last_run"];
    assert_eq!(
        (
            &run["trigger"],
            &run["outcome"],
            &run["error"]["code"],
            &run["error"]["message"]
        ),
        (
            &json!("manual"),
            &json!("failed"),
            &json!(4711),
            &json!("no coffee")
        ),
        "{ended}"
    );
    assert_eq!((&ended["runs"], &ended["failures"]), (&json!(1), &json!(1)));
    // The log has the code but not the message, which is the plugin's own.
    let ends = events(&server, "task.ended");
    assert_eq!((ends.len(), &ends[0].0["error"]), (1, &json!(4711)));

    let flags = [
        "--server",
        &server.base_url,
        "--set",
        &format!("MASTER_KEY={MASTER_KEY}"),
    ];
    let said = |arguments: &[&str]| {
        let output = server.skytrail(&[arguments, &flags].concat());
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let (is_ok, listed) = said(&["task", "list"]);
    assert!(
        is_ok && listed.contains("TEST/tick") && listed.contains("no coffee"),
        "{listed}"
    );
    let (is_ok, refused) = said(&["task", "run", "TEST/tock"]);
    assert!(!is_ok && refused.contains("no task \"tock\""), "{refused}");
    std::thread::scope(|scope| {
        let ran = scope.spawn(|| said(&["task", "run", "TEST/tick"]));
        let tick = next_tick(&mut worker);
        worker.answer(&tick, &json!({}));
        let (is_ok, text) = ran.join().unwrap();
        assert!(is_ok && text.contains(" ok;"), "{text}");
    });
    let (is_ok, text) = said(&["task", "pause", "TEST/tick"]);
    assert!(is_ok && text.contains("next: paused"), "{text}");
    worker.die();
    await_task(&server, "nobody is there", |task| task["attended"] == false);
    let (is_ok, text) = said(&["task", "run", "TEST/tick"]);
    assert!(!is_ok && text.contains("has no worker"), "{text}");
}

#[test]
fn a_pause_outlives_a_restart_and_is_not_made_up_for() {
    let mut server = server(&[]);
    let (first, ticks) = run_plugin(&server, ticking("* * * * * *"));
    eventually("a run", || {
        (ticks.load(Ordering::SeqCst) >= 1).then_some(())
    });
    let name = json!({"plugin": "TEST", "name": "tick"});
    let paused = Client::master(&server)
        .call("task:pause", name.clone())
        .result();
    assert_eq!(
        (&paused["paused"], &paused["next_run"]),
        (&json!(true), &Json::Null)
    );
    drop(first);
    server.terminate();
    let before = claimed(&server);
    server.restart();
    let (_second, ticks) = run_plugin(&server, ticking("* * * * * *"));
    await_task(&server, "the task is there", |task| {
        task["attended"] == true
    });
    assert_eq!(task(&server).unwrap()["paused"], true);
    assert_eq!(ticks.load(Ordering::SeqCst), 0);
    let resumed = Client::master(&server).call("task:resume", name).result();
    assert_eq!(resumed["paused"], false);
    eventually("a run", || {
        (ticks.load(Ordering::SeqCst) >= 1).then_some(())
    });
    let after = claimed(&server);
    let (_, resumed_at) = &events(&server, "task.resumed")[0];
    assert!(
        after[before.len()] > second(resumed_at),
        "{after:?} {resumed_at}"
    );
}

#[test]
fn what_was_due_without_a_worker_is_made_up_for_once() {
    let server = server(&[]);
    let (mut worker, mut ticks) = join(&server, &json!({}), &ticking("@every 2s"));
    let tick = ticks.pop().unwrap_or_else(|| next_tick(&mut worker));
    worker.answer(&tick, &Json::Null);
    worker.die();
    let alone = await_task(&server, "nobody is there", |task| task["attended"] == false);
    let due = second(&alone["next_run"]);
    // Another run may have met the end of the worker.
    let before = claimed(&server).len();
    // Three more runs were due, and the plugin was not asked.
    await_task(&server, "time has passed", |task| {
        second(&task["next_run"]) > due + 4
    });
    let (_worker, ticks) = run_plugin(&server, ticking("@every 2s"));
    eventually("a run", || {
        (ticks.load(Ordering::SeqCst) >= 1).then_some(())
    });
    let task = task(&server).unwrap();
    assert!(task["missed"].as_u64() >= Some(1), "{task}");
    let dues = claimed(&server);
    assert!(dues.is_sorted_by(|a, b| a < b), "{dues:?}");
    assert!(dues[before] > due, "{dues:?}");
}

#[test]
fn a_clock_that_was_a_year_ahead_for_a_moment_stops_no_task() {
    let Some(faketime) = faketime() else {
        return skipped("a clock that jumps", "faketime is not installed");
    };
    let folder = tempfile::tempdir().unwrap();
    let time = folder.path().join("time");
    // Written to another file and renamed: the server reads it whenever it looks at the clock.
    let put = |offset: &str| {
        let next = folder.path().join("next");
        std::fs::write(&next, offset).unwrap();
        std::fs::rename(&next, &time).unwrap();
    };
    put("+0");
    let server = server(&[
        ("LD_PRELOAD", &faketime),
        ("FAKETIME_TIMESTAMP_FILE", &time.to_string_lossy()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]);
    let points = timers(json!([
        {"name": "often", "spec": "@every 1s"},
        {"name": "tick", "spec": "* * * * * *"},
    ]));
    let (_worker, _ticks) = run_plugin(&server, points);
    let due_of = |name: &str| {
        let tasks = Client::master(&server)
            .call("task:list", json!({}))
            .result();
        let tasks = tasks["tasks"].as_array()?.clone();
        let task = tasks.into_iter().find(|task| task["name"] == name)?;
        let due = &task["last_run"]["due"];
        due.is_string().then(|| second(due))
    };
    let both = |what: &str, is_so: &dyn Fn(i64) -> bool| {
        let is_one_so = |name: &str| due_of(name).filter(|due| is_so(*due));
        eventually(what, || is_one_so("often").zip(is_one_so("tick")))
    };
    let (first, _) = both("runs", &|_| true);
    let half_a_year = first + 180 * 86_400;
    put("+365d");
    both("runs in a year", &|due| due > half_a_year);
    put("+0");
    let (often, tick) = both("runs now", &|due| due < half_a_year);
    both("more runs", &|due| {
        due < half_a_year && due > often.max(tick) + 2
    });
}

#[test]
fn what_is_due_while_a_plugin_over_http_is_away_waits_for_it() {
    let address = lasting_address();
    let num_asked = Arc::<AtomicU64>::default();
    let start = || {
        let counted = Arc::clone(&num_asked);
        HttpPlugin::start_at(&address, ticking("@every 2s"), move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Reaction::result(Json::Null)
        })
    };
    let plugin = start();
    let server = http::server(&plugin, &[]);
    let num = |task: &Json, what: &str| task[what].as_u64().unwrap();
    await_task(&server, "it ran", |task| num(task, "runs") > 0);
    drop(plugin);
    let alone = await_task(&server, "runs were due", |task| num(task, "skipped") > 0);
    // A run can have met the end of the plugin, but then the plugin was asked.
    let asked = num_asked.load(Ordering::SeqCst);
    assert!(num(&alone, "runs") <= asked, "{asked}: {alone}");
    let _plugin = start();
    let before = num(&alone, "runs");
    let back = await_task(&server, "it ran again", |task| num(task, "runs") > before);
    assert_eq!(num(&back, "failures"), num(&alone, "failures"), "{back}");
}

#[test]
fn timers_run_before_all_plugins_are_ready() {
    let server = TestServer::with(&[("PLUGINS", "TEST,LATE")]);
    let (_worker, ticks) = run_plugin(&server, ticking("* * * * * *"));
    eventually("a run", || {
        (ticks.load(Ordering::SeqCst) >= 1).then_some(())
    });
    let answer = Client::anonymous(&server).call("_status:healthz", json!({}));
    assert_eq!(answer.code(), 118);
}

#[test]
fn a_registration_with_a_bad_timer_is_refused_as_a_whole() {
    let server = server(&[]);
    let refused = |points: &Json| {
        let mut worker = Worker::greet(&server, &json!({}));
        loop {
            match worker.next(TIMEOUT) {
                Seen::Message(message) if message["type"] == "registered" => {
                    assert_eq!(message["ok"], false);
                    return message["problems"].clone();
                }
                Seen::Message(message) => answer_event(&mut worker, &message, points),
                other => panic!("{other:?}"),
            }
        }
    };
    let bad = json!({
        "op": [{"name": "a:b"}],
        "timer": [
            {"name": "good", "spec": "* * * * * *"},
            {"name": "late", "spec": "60 * * * * *"},
            {"name": "far", "spec": "@daily", "time_zone": "Atlantis"},
            {"name": "odd", "spec": "@daily", "overlap": "maybe"}]});
    assert_eq!(
        refused(&bad),
        json!([
            {"list": "timer", "name": "late", "message": "second: 60 is above 59"},
            {"list": "timer", "name": "far",
             "message": "time_zone: no time zone is named \"Atlantis\""},
            {"list": "timer", "name": "odd", "message": "overlap: skip or allow, not \"maybe\""}])
    );
    let many = (0..1001).map(|number| json!({"name": format!("t{number}"), "spec": RARELY}));
    let message = "more than 1000 timers across all plugins";
    assert_eq!(
        refused(&timers(many.collect())),
        json!([{"list": "timer", "name": "", "message": message}])
    );
    assert_eq!(task(&server), None);
}

#[test]
fn tasks_follow_what_is_registered() {
    let server = TestServer::with(&[("PLUGINS", "TEST"), ("TIMER_ZONE", "Asia/Kolkata")]);
    let points = timers(json!([
        {"name": "noon", "spec": "0 0 12 * * *"},
        {"name": "noon", "spec": "0 0 12 * * *", "time_zone": "America/New_York"},
        {"name": "gone", "spec": RARELY}]));
    let (mut old, _) = join(&server, &json!({}), &points);
    let master = Client::master(&server);
    let list = |count: usize| {
        eventually("the tasks are there", || {
            let listed = master.call("task:list", json!({})).result();
            let tasks = listed["tasks"].as_array().unwrap().clone();
            let are_set = tasks.iter().all(|task| task["next_run"].is_string());
            (tasks.len() == count && are_set).then_some(tasks)
        })
    };
    let tasks = list(3);
    let names: Vec<_> = tasks
        .iter()
        .map(|task| task["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["gone", "noon", "noon#2"]);
    assert!(
        tasks[1]["next_run"]
            .as_str()
            .unwrap()
            .ends_with("T06:30:00Z")
    );
    assert_eq!(tasks[2]["time_zone"], "America/New_York");
    // Both are the same function to the plugin.
    let asked = call(
        &master,
        "task:run",
        json!({"plugin": "TEST", "name": "noon#2"}),
    );
    let tick = next_tick(&mut old);
    assert_eq!(tick["name"], "noon");
    old.answer(&tick, &Json::Null);
    assert_eq!(asked.join().unwrap().result()["last_run"]["outcome"], "ok");

    let (_new, _) = join(&server, &json!({"generation": 2}), &ticking(RARELY));
    let tasks = list(1);
    assert_eq!(tasks[0]["name"], "tick");
}

#[test]
fn a_slave_runs_no_tasks() {
    let server = server(&[("SLAVE", "YES")]);
    let (mut worker, ticks) = join(&server, &json!({}), &ticking("* * * * * *"));
    assert!(ticks.is_empty());
    // For more than two seconds the clock calls for runs, and nothing but runs arrives.
    let timeout = Duration::from_millis(2500);
    while let Seen::Message(message) = worker.next(timeout) {
        assert_ne!(message["kind"], "timer");
        answer_event(&mut worker, &message, &Json::Null);
    }
    assert_eq!(task(&server), None);
}

#[test]
fn tasks_are_seen_in_health_and_metrics() {
    let server = server(&[]);
    let (_worker, _ticks) = run_plugin(&server, ticking("* * * * * *"));
    await_task(&server, "a run", |task| task["runs"].as_u64() >= Some(1));
    let health = Client::master(&server).health();
    assert_eq!(health["tasks"][0]["name"], "tick", "{health}");
    let key = ("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned());
    let url = format!("{}/_/metrics", server.base_url);
    let figures = send("GET", &url, &[key], None).unwrap().bytes;
    let figures = String::from_utf8(figures).unwrap();
    let value = |line: &str| {
        let found = figures.lines().find_map(|it| it.strip_prefix(line));
        found
            .unwrap_or_else(|| panic!("{figures}"))
            .trim()
            .parse::<u64>()
            .unwrap()
    };
    assert!(value("skytrail_task_runs_total{plugin=\"TEST\",outcome=\"ok\"}") >= 1);
    assert_eq!(value("skytrail_tasks{plugin=\"TEST\",state=\"all\"}"), 1);
}
