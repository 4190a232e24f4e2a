//! Following the log over server-sent events and over a WebSocket, without gaps or duplicates,
//! whatever happens to the server.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{positions, read_all, write_some};
use crate::support::client::Client;
use crate::support::server::{API_KEY, MASTER_KEY, TestServer, lasting_address};
use crate::support::socket::{Incoming, Socket};
use crate::support::sse::{EventSource, Heard};
use crate::support::{SetOnDrop, eventually};

const TIMEOUT: Duration = Duration::from_secs(20);
const KEY: (&str, &str) = ("X-Skygear-API-Key", MASTER_KEY);

/// A follower that reconnects.
trait Follower {
    /// Connects after the last position received; returns whether it is connected.
    fn connect(&mut self, address: &str) -> bool;
    /// Waits for the next event; `None` when the connection is lost.
    fn next(&mut self) -> Option<Json>;
}

#[derive(Default)]
struct OverEvents {
    source: Option<EventSource>,
    last_id: Option<String>,
}

impl Follower for OverEvents {
    fn connect(&mut self, address: &str) -> bool {
        let mut headers = vec![KEY];
        if let Some(id) = &self.last_id {
            headers.push(("Last-Event-ID", id));
        }
        let path = "/log/follow?from=1&kinds=record";
        self.source = EventSource::open(address, path, &headers, None);
        self.source.as_ref().is_some_and(|it| it.status == 200)
    }

    fn next(&mut self) -> Option<Json> {
        loop {
            let Heard::Event(event) = self.source.as_mut()?.next(TIMEOUT) else {
                return None;
            };
            self.last_id = Some(event.id);
            if event.event == "event" {
                return Some(serde_json::from_str(&event.data).unwrap());
            }
        }
    }
}

struct OverSocket {
    socket: Option<Socket>,
    from: u64,
}

impl Follower for OverSocket {
    fn connect(&mut self, address: &str) -> bool {
        if std::net::TcpStream::connect(address).is_err() {
            return false;
        }
        let Ok(mut socket) = Socket::open(address, &format!("/log?api_key={MASTER_KEY}"), &[])
        else {
            return false;
        };
        let ask = json!({"type": "follow", "from": self.from, "kinds": ["record"]});
        socket.send(&ask.to_string());
        self.socket = Some(socket);
        true
    }

    fn next(&mut self) -> Option<Json> {
        loop {
            let Incoming::Text(text) = self.socket.as_mut()?.receive(TIMEOUT) else {
                return None;
            };
            let message: Json = serde_json::from_str(&text).unwrap();
            match message["type"].as_str().unwrap() {
                "event" => {
                    self.from = message["event"]["position"].as_u64().unwrap() + 1;
                    return Some(message["event"].clone());
                }
                "position" => self.from = message["position"].as_u64().unwrap() + 1,
                other => panic!("{other}: {text}"),
            }
        }
    }
}

/// Follows from the beginning while others write and the server is killed; returns what was
/// received.
fn follow_through(follower: &mut impl Follower) {
    const KILLS: usize = 3;
    let address = lasting_address();
    let mut server = TestServer::with(&[("HOST", &address)]);
    write_some(&server, 10);
    let is_over = AtomicBool::new(false);
    let mut heard: Vec<Json> = Vec::new();
    std::thread::scope(|scope| {
        let _ending = SetOnDrop(&is_over);
        let master = Client::master(&server);
        for writer in 0..2 {
            let (client, is_over) = (master.clone(), &is_over);
            scope.spawn(move || {
                let mut number = 0;
                while !is_over.load(Ordering::SeqCst) {
                    number += 1;
                    let id = format!("note/{writer}-{}", number % 50);
                    let body = json!({"records": [{"_id": id, "number": number}]});
                    // The server may be down at that time.
                    let _ = client.try_call("record:save", body);
                }
            });
        }
        for kill in 0..=KILLS {
            eventually("the follower connects", || {
                follower.connect(&address).then_some(())
            });
            for _ in 0..60 {
                match follower.next() {
                    Some(event) => heard.push(event),
                    None => panic!("lost after {} events", heard.len()),
                }
            }
            if kill < KILLS {
                server.restart();
            }
        }
    });
    let master = Client::master(&server);
    let expected = read_all(&master, &json!({"kinds": ["record"], "limit": 1000}));
    // The connection since the last start still works.
    while heard.len() < expected.len() {
        heard.push(follower.next().unwrap());
    }
    assert_eq!(positions(&heard), positions(&expected));
    assert_eq!(heard, expected);
}

#[test]
fn server_sent_events_miss_nothing_and_double_nothing() {
    follow_through(&mut OverEvents::default());
}

#[test]
fn a_websocket_misses_nothing_and_doubles_nothing() {
    follow_through(&mut OverSocket {
        socket: None,
        from: 1,
    });
}

#[test]
fn who_follows_from_now_hears_what_comes_and_where_he_is() {
    let server = TestServer::start();
    write_some(&server, 5);
    let master = Client::master(&server);
    let head = master.health()["log"]["head"].as_u64().unwrap();
    let body = json!({"api_key": MASTER_KEY, "record_types": ["note"], "kinds": ["record"]});
    let body = body.to_string();
    let mut source = EventSource::open(server.address(), "/log/follow", &[], Some(&body)).unwrap();
    assert_eq!(source.status, 200, "{}", source.head);
    assert!(source.head.contains("text/event-stream"), "{}", source.head);
    let mut next = || match source.next(TIMEOUT) {
        Heard::Event(event) => event,
        other => panic!("{other:?}"),
    };
    // No past events arrive. The follower immediately receives its starting position, from which it
    // can resume.
    let begun = next();
    assert_eq!(begun.event, "position", "{begun:?}");
    let note: Json = serde_json::from_str(&begun.data).unwrap();
    assert_eq!(
        (&note["position"], &note["caught_up"]),
        (&json!(head), &json!(true))
    );
    master.save("task/unwanted", json!({}));
    master.save("note/wanted", json!({"title": "a\nb"}));
    let came = next();
    let event: Json = serde_json::from_str(&came.data).unwrap();
    let (position, _) = came.id.split_once('-').unwrap();
    assert_eq!(position, event["position"].to_string());
    assert_eq!(event["payload"]["fields"]["title"], "a\nb");
    eventually("it is counted", || {
        (master.health()["num_followers"] == 1).then_some(())
    });
    drop(source);
    eventually("it is gone", || {
        (master.health()["num_followers"] == 0).then_some(())
    });
}

#[test]
fn a_user_is_named_by_what_he_signs_in_with() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    Client::signed_up(&server, "bob").save("note/bobs", json!({"n": 1}));
    ada.save("note/1", json!({"n": 1}));
    let expected = read_all(&master, &json!({"user": ada.user}));
    assert!(expected.len() > 1, "{expected:?}");
    let first = expected[0]["position"].clone();
    for user in ["ada", ada.user.as_ref().unwrap()] {
        // Also when a client comes back, which asks in another way.
        let after = read_all(&master, &json!({"stream": "type/user"}));
        let begin = after[0]["position"].to_string();
        for headers in [vec![KEY], vec![KEY, ("Last-Event-ID", &begin)]] {
            let path = format!("/log/follow?from=1&user={user}");
            let mut source = EventSource::open(server.address(), &path, &headers, None).unwrap();
            assert_eq!(source.status, 200, "{}", source.head);
            let mut seen = Vec::new();
            while seen.len() < expected.len() {
                let Heard::Event(event) = source.next(TIMEOUT) else {
                    panic!("{user}: {seen:?}");
                };
                let data: Json = serde_json::from_str(&event.data).unwrap();
                assert_ne!(data["caught_up"], true, "{user}: {seen:?}");
                if event.event == "event" {
                    seen.push(data);
                }
            }
            assert_eq!(seen, expected);
        }
        let key = [(KEY.0.to_owned(), KEY.1.to_owned())];
        let mut socket = Socket::open(server.address(), "/log", &key).unwrap();
        socket.send(&json!({"type": "follow", "from": 1, "user": user}).to_string());
        let Incoming::Text(text) = socket.receive(TIMEOUT) else {
            panic!("nothing is followed");
        };
        let said: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(said["event"]["position"], first, "{user}: {said}");
    }
}

#[test]
fn a_stop_ends_what_is_followed_in_time() {
    let mut server = TestServer::start();
    write_some(&server, 3);
    let path = "/log/follow?from=1";
    let mut source = EventSource::open(server.address(), path, &[KEY], None).unwrap();
    let mut socket =
        Socket::open(server.address(), "/log", &[(KEY.0.into(), KEY.1.into())]).unwrap();
    socket.send(r#"{"type": "follow", "from": 1}"#);
    assert!(matches!(socket.receive(TIMEOUT), Incoming::Text(_)));
    assert!(server.terminate().success());
    let output = server.output();
    assert!(!output.contains("not done in time"), "{output}");
    while let Heard::Event(_) = source.next(TIMEOUT) {}
    assert!(matches!(source.next(TIMEOUT), Heard::Ended));
    while let Incoming::Text(_) = socket.receive(TIMEOUT) {}
    assert!(matches!(socket.receive(TIMEOUT), Incoming::Closed));
}

#[test]
fn only_the_master_key_follows_and_what_makes_no_sense_is_refused() {
    let server = TestServer::start();
    let open = |path: &str, headers: &[(&str, &str)]| {
        EventSource::open(server.address(), path, headers, None).unwrap()
    };
    let client = [("X-Skygear-API-Key", API_KEY)];
    assert_eq!(open("/log/follow", &[]).status, 401);
    assert_eq!(open("/log/follow", &client).status, 401);
    assert_eq!(open("/log/follow?kinds=x", &[KEY]).status, 400);
    assert_eq!(open("/log/follow?from=100000", &[KEY]).status, 400);
    let beyond = [KEY, ("Last-Event-ID", "100000")];
    assert_eq!(open("/log/follow", &beyond).status, 400);
    assert_eq!(
        open("/log/follow", &[KEY, ("Last-Event-ID", "x")]).status,
        400
    );
    let refused = Socket::open(
        server.address(),
        "/log",
        &[(client[0].0.into(), API_KEY.into())],
    );
    assert_eq!(refused.err().unwrap().0, 401);
    for text in [
        "",
        "[]",
        "{}",
        r#"{"type":"x"}"#,
        r#"{"type":"follow","from":0}"#,
    ] {
        let key = [(KEY.0.to_owned(), KEY.1.to_owned())];
        let mut socket = Socket::open(server.address(), "/log", &key).unwrap();
        socket.send(text);
        match socket.receive(TIMEOUT) {
            Incoming::Text(said) => assert!(said.contains("\"error\""), "{text}: {said}"),
            other => panic!("{text}: {other:?}"),
        }
        assert!(matches!(socket.receive(TIMEOUT), Incoming::Closed));
    }
}

#[test]
fn the_command_line_follows_and_goes_on_after_a_kill() {
    let address = lasting_address();
    let mut server = TestServer::with(&[("HOST", &address)]);
    let master = Client::master(&server);
    master.save("note/0", json!({}));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_skytrail"));
    command.env_clear().env("DATA_DIR", server.data_dir());
    command.args([
        "--host",
        &address,
        "--set",
        &format!("MASTER_KEY={MASTER_KEY}"),
    ]);
    command.args([
        "log",
        "follow",
        "--record-types",
        "note",
        "--kinds",
        "record",
        "--from",
        "1",
    ]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.stdout.take().unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        use std::io::BufRead as _;
        for line in std::io::BufReader::new(output)
            .lines()
            .map_while(Result::ok)
        {
            let _ = sender.send(line);
        }
    });
    for number in 0..3 {
        let event: Json = serde_json::from_str(&lines.recv_timeout(TIMEOUT).unwrap()).unwrap();
        assert_eq!(event["stream"], format!("record/note/{number}"));
        if number == 1 {
            server.restart();
        }
        master.save(&format!("note/{}", number + 1), json!({}));
    }
    let _ = child.kill();
    let _ = child.wait();
    let refused = server.skytrail(&[
        "--host",
        &address,
        "--set",
        "MASTER_KEY=wrong",
        "log",
        "follow",
    ]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && said.contains("a different master key"),
        "{said}"
    );
}
