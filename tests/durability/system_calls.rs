//! The server under a tracer: what it flushes before it answers, and what it does when a flush
//! fails or is slow.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::trace::{key_flushes, violations};
use crate::support::client::Client;
use crate::support::load::Load;
use crate::support::machine::{skipped, strace};
use crate::support::server::TestServer;

/// The exit code of a server whose log is in doubt.
const EXIT_LOG_IN_DOUBT: i32 = 70;

/// The journal's only segment.
pub fn segment(server: &TestServer) -> PathBuf {
    let mut files = std::fs::read_dir(server.data_dir().join("journal")).unwrap();
    files.next().unwrap().unwrap().path()
}

#[test]
fn every_acknowledgement_comes_after_a_flush_of_what_it_acknowledges() {
    let strace = match strace() {
        Ok(path) => path,
        Err(why) => return skipped("flush before answer", &why),
    };
    let mut server = TestServer::start();
    let client = Client::signed_up(&server, "ada");
    client.save("note/first", json!({"text": "so that the type is there"}));
    assert!(server.terminate().success());

    let file = server.folder().join("trace");
    let path = file.to_string_lossy().into_owned();
    let calls = "trace=pwrite64,fdatasync,write,writev,sendto,sendmsg,sendmmsg";
    let tracer = [&strace, "-D", "-q", "-f", "--seccomp-bpf", "-yy"];
    let output = ["-s", "65536", "-o", &path, "-e", calls];
    server.wrap(&[tracer, output].concat());
    server.restart();
    let client = client.at(&server);
    let keys: Vec<String> = (0..160)
        .map(|number| format!("traced-{number}-{}", number * 7919))
        .collect();
    std::thread::scope(|scope| {
        for keys in keys.chunks(20) {
            let client = &client;
            scope.spawn(move || {
                for key in keys {
                    client.save(&format!("note/{key}"), json!({"text": "to be durable"}));
                }
            });
        }
    });
    assert!(server.terminate().success());
    let trace = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
    let wrong = violations(&trace, &keys);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn keys_of_new_users_are_flushed_before_what_is_sealed_with_them_is_written() {
    const NUM_USERS: usize = 48;
    let strace = match strace() {
        Ok(path) => path,
        Err(why) => return skipped("keys before what is sealed with them", &why),
    };
    let mut server = TestServer::start();
    assert!(server.terminate().success());
    let file = server.folder().join("trace");
    let path = file.to_string_lossy().into_owned();
    let tracer = [&strace, "-D", "-q", "-f", "--seccomp-bpf", "-yy", "-x"];
    let output = ["-s", "65536", "-o", &path, "-e", "trace=pwrite64,fdatasync"];
    server.wrap(&[&tracer[..], &output].concat());
    server.restart();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let master = Client::master(&server);
                while next.load(Ordering::Relaxed) < NUM_USERS {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let name = format!("sealed-{number:02}");
                    let user = json!({"id": name, "auth_data": {"username": name}});
                    let done = master.call("auth:import", json!({"users": [user]}));
                    assert_eq!(done.result()[0]["_type"], "user", "{}", done.json());
                }
            });
        }
    });
    assert!(server.terminate().success());
    let trace = std::fs::read_to_string(&file).unwrap();
    let ids: Vec<String> = (0..NUM_USERS)
        .map(|number| format!("sealed-{number:02}"))
        .collect();
    let found = key_flushes(&trace, &ids);
    assert!(found.wrong.is_empty(), "{:#?}", found.wrong);
    assert!(found.num_keys >= NUM_USERS, "{}", found.num_keys);
    assert!(found.num_flushes < found.num_keys, "{}", found.num_flushes);
}

#[test]
fn a_flush_that_fails_ends_the_server_and_nothing_is_acknowledged_after_it() {
    let strace = match strace() {
        Ok(path) => path,
        Err(why) => return skipped("failing flush", &why),
    };
    let mut server = TestServer::start();
    let client = Client::signed_up(&server, "ada");
    Load::prepare(&client);
    assert!(server.terminate().success());

    let path = segment(&server).to_string_lossy().into_owned();
    let fault = "inject=fdatasync:error=EIO:when=25";
    let tracer = [&strace, "-D", "-q", "-f", "-o", "/dev/null", "-P", &path];
    server.wrap(&[&tracer[..], &["-e", "trace=fdatasync", "-e", fault]].concat());
    server.restart();
    let load = Load::default();
    let mut status = None;
    load.run(&client.at(&server), 25, || status = Some(server.wait()));
    assert_eq!(status.unwrap().code(), Some(EXIT_LOG_IN_DOUBT));
    assert!(load.num_acknowledged() > 0);

    server.wrap(&[]);
    server.restart();
    load.check(&client.at(&server), "after the failed flush");
}
