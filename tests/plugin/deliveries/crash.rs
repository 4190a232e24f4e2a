//! `kill -9` while after-hooks run and queue up: no delivery is lost or out of order.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::support::SetOnDrop;
use crate::support::machine::{number as setting, skipped};
use crate::support::power::Disk;

const WRITERS: i64 = 3;
const RECORDS: i64 = 4;

/// What a plugin has heard: per record, the numbers in the order in which each first arrived, and
/// the highest position.
#[derive(Default)]
struct Heard {
    by_record: HashMap<String, Vec<i64>>,
    positions: HashMap<String, u64>,
    num_again: usize,
    wrong: Vec<String>,
}

impl Heard {
    fn hear(&mut self, request: &Json) {
        let record = id(request).to_owned();
        let position = request["delivery"]["position"].as_u64().unwrap();
        let numbers = self.by_record.entry(record.clone()).or_default();
        let n = number(request);
        if numbers.contains(&n) {
            self.num_again += 1;
            return;
        }
        numbers.push(n);
        let last = self.positions.insert(record.clone(), position);
        if last.is_some_and(|last| last >= position) {
            self.wrong
                .push(format!("{record}: {position} after {last:?}"));
        }
    }
}

/// Saves until the server is gone; returns what was acknowledged.
fn write(client: &Client, counter: &AtomicI64, is_over: &AtomicBool) -> BTreeMap<i64, String> {
    let mut acknowledged = BTreeMap::new();
    std::thread::scope(|scope| {
        let write = |writer| {
            let mut done = Vec::new();
            while !is_over.load(Ordering::SeqCst) {
                let n = counter.fetch_add(1, Ordering::SeqCst);
                // Each writer has its own records, so the numbers of each record grow.
                let record = format!("note/{writer}-{}", n % RECORDS);
                let body = json!({"records": [{"_id": record, "n": n}]});
                match client.try_call("record:save", body) {
                    Ok(answer) if answer.status == 200 => done.push((n, record)),
                    _ => break,
                }
            }
            done
        };
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || write(writer)))
            .collect();
        for writer in writers {
            acknowledged.extend(writer.join().unwrap());
        }
    });
    acknowledged
}

/// Acknowledges a delivery, sometimes with a delay, so that some are always in flight.
fn react(heard: &Mutex<Heard>, worker: &mut Worker, message: &Json) {
    if message["kind"] == "hook" {
        heard.lock().unwrap().hear(message);
        if number(message) % 3 == 0 {
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
    if message["type"] == "request" {
        worker.answer(message, &Json::Null);
    }
}

#[test]
fn killed_again_and_again_the_server_delivers_every_save() {
    let num_cycles = setting("SKYTRAIL_CRASH_CYCLES", 8);
    delivers_every_save(server(&[]), num_cycles, |_| {});
}

#[test]
fn the_server_delivers_every_save_whatever_a_power_cut_takes() {
    let mut disk = match Disk::new() {
        Ok(disk) => disk,
        Err(why) => return skipped("deliveries after a power loss", &why),
    };
    let server = server(&[("DATA_DIR", &disk.data())]);
    let num_cycles = setting("SKYTRAIL_POWER_CYCLES", 5);
    delivers_every_save(server, num_cycles, |server| {
        disk.lose_power();
        server.set("DATA_DIR", &disk.data());
    });
}

/// Kills a server under load repeatedly, and each time does something to what it leaves behind.
fn delivers_every_save(
    mut server: TestServer,
    num_cycles: u64,
    mut meanwhile: impl FnMut(&mut TestServer),
) {
    let heard = Arc::new(Mutex::new(Heard::default()));
    let counter = AtomicI64::new(0);
    let mut acknowledged: BTreeMap<i64, String> = BTreeMap::new();
    let hello = json!({"window": 8});
    let mut worker = Some(Worker::ready(&server, &knowing(&hello), &told(&json!({}))));
    let client = Client::signed_up(&server, "writer");
    for cycle in 0..num_cycles {
        let serving = worker.take().map(|worker| {
            let heard = Arc::clone(&heard);
            worker.serve(move |worker, message| react(&heard, worker, message))
        });
        let here = client.at(&server);
        let is_over = AtomicBool::new(false);
        let before = counter.load(Ordering::SeqCst);
        std::thread::scope(|scope| {
            let _ending = SetOnDrop(&is_over);
            let writing = scope.spawn(|| write(&here, &counter, &is_over));
            let goal = before + 30 + i64::try_from(cycle * 37 % 90).unwrap();
            eventually("the load goes on", || {
                (counter.load(Ordering::SeqCst) >= goal).then_some(())
            });
            server.kill();
            is_over.store(true, Ordering::SeqCst);
            acknowledged.extend(writing.join().unwrap());
        });
        drop(serving);
        meanwhile(&mut server);
        server.restart();
        worker = Some(arrive(&server, &hello, &told(&json!({}))));
        // Every other time the plugin dies too, as soon as it is back.
        if cycle % 2 == 0 {
            if let Some(worker) = worker.take() {
                worker.die();
            }
            let here = client.at(&server);
            here.save(
                "note/away",
                json!({"n": -1 - i64::try_from(cycle).unwrap()}),
            );
            worker = Some(arrive(&server, &hello, &told(&json!({}))));
        }
    }
    let serving = worker.take().map(|worker| {
        let heard = Arc::clone(&heard);
        worker.serve(move |worker, message| react(&heard, worker, message))
    });
    await_consumer(&server, "all is delivered", |it| it["lag"] == 0);
    drop(serving);
    let heard = heard.lock().unwrap();
    assert!(heard.wrong.is_empty(), "{:?}", heard.wrong);
    let is_lost = |(n, record): &(&i64, &String)| {
        let numbers = heard.by_record.get(*record);
        numbers.is_none_or(|numbers| !numbers.contains(n))
    };
    let lost: Vec<_> = acknowledged.iter().filter(is_lost).collect();
    assert!(
        lost.is_empty(),
        "of {} saves lost: {lost:?}",
        acknowledged.len()
    );
    assert!(acknowledged.len() > 100);
    for (record, numbers) in &heard.by_record {
        assert!(
            record == "note/away" || numbers.is_sorted(),
            "{record}: {numbers:?}"
        );
    }
    println!(
        "{} saves, {} told again",
        acknowledged.len(),
        heard.num_again
    );
    assert_eq!(consumer(&server)["dead_letters"], 0);
    // The server must end before the disk that it is on.
    server.kill();
}

#[test]
fn what_was_acknowledged_and_kept_does_not_come_again_whatever_is_rebuilt() {
    let mut server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    let ada = Client::signed_up(&server, "ada");
    for n in 1..=3 {
        ada.save(&format!("note/{n}"), json!({"n": n}));
        let delivery = next_delivery(&mut worker);
        // The second one stays open.
        if n != 2 {
            worker.answer(&delivery, &Json::Null);
        }
    }
    await_consumer(&server, "two are over", |it| it["delivered"] == 2);
    let serving = worker.serve(|_, _| {});
    assert!(server.terminate().success());
    drop(serving);
    let rebuilt = server.skytrail(&["rebuild"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    server.restart();
    let mut worker = arrive(&server, &json!({}), &told(&json!({})));
    let open = next_delivery(&mut worker);
    assert_eq!(number(&open), 2);
    worker.answer(&open, &Json::Null);
    expect_end(&server, &mut worker);
}

#[test]
fn lost_positions_are_for_people_to_set() {
    let mut server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    let delivery = next_delivery(&mut worker);
    let position = delivery["delivery"]["position"].as_u64().unwrap();
    worker.answer(&delivery, &Json::Null);
    let serving = worker.serve(|_, _| {});
    assert!(server.terminate().success());
    drop(serving);
    let path = server.data_dir().join("ops.sqlite");
    std::fs::write(&path, vec![7; 8192]).unwrap();
    server.restart();
    let ada = ada.at(&server);
    let mut worker = arrive(&server, &json!({}), &told(&json!({})));
    ada.save("note/2", json!({"n": 2}));
    let state = await_consumer(&server, "it is paused", |it| it["state"] == "paused");
    assert!(
        state["reason"].as_str().unwrap().contains("lost"),
        "{state}"
    );
    expect_held(&server, &mut worker, (1, 0));
    let master = Client::master(&server);
    let body = json!({"consumer": "TEST", "position": position - 1});
    master.call("delivery:rewind", body).result();
    master
        .call("delivery:resume", json!({"consumer": "TEST"}))
        .result();
    let mut numbers = Vec::new();
    for _ in 1..=2 {
        let delivery = next_delivery(&mut worker);
        numbers.push(number(&delivery));
        worker.answer(&delivery, &Json::Null);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2]);
    assert!(server.data_dir().join("ops.damaged-1.sqlite").exists());
}
