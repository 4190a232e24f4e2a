//! Backups of an original and of its copy, into one place at the same time.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::spawn;
use std::time::Duration;

use super::bucket::{BUCKET, Place};
use super::*;
use crate::support::s3::Service;

const CANARY: &str = "canary-5d0be7a2";
/// How long a backup may take until it is held.
const PATIENCE: Duration = Duration::from_secs(120);

/// Stands before a service, and holds the first request for something until it is told to go on.
struct Gate {
    endpoint: String,
    held: Receiver<()>,
    go_on: Sender<()>,
}

impl Gate {
    fn before(service: &Service, what: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = service.endpoint.trim_start_matches("http://").to_owned();
        let ((has_come, held), (go_on, may_go)) = (channel(), channel());
        let hold = Arc::new(Mutex::new(Some((has_come, may_go))));
        // Ends with the test's process.
        spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                let to = TcpStream::connect(&service).unwrap();
                let back = (to.try_clone().unwrap(), from.try_clone().unwrap());
                pass(back.0, back.1, |_| ());
                let (what, hold) = (what.clone(), Arc::clone(&hold));
                pass(from, to, move |bytes| {
                    if !bytes.starts_with(what.as_bytes()) {
                        return;
                    }
                    if let Some((has_come, may_go)) = hold.lock().unwrap().take() {
                        has_come.send(()).unwrap();
                        let _: Result<(), _> = may_go.recv();
                    }
                });
            }
        });
        Self {
            endpoint,
            held,
            go_on,
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, look: impl Fn(&[u8]) + Send + 'static) {
    spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            look(&bytes[..length]);
            if to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// An original, and a copy of it whose last backup has a file that the copy has not any more.
struct Both {
    service: Service,
    world: World,
    copy: TestServer,
}

impl Both {
    fn start() -> Self {
        let service = Service::start(BUCKET);
        let world = World::start();
        let master = world.master();
        master.save("single/1", json!({"text": CANARY}));
        world.fill(&master, "sealed");
        let original = Place {
            service: &service,
            server: &world.server,
        };
        said(&original.run(&["backup"]));
        let to = world.server.folder().join("copy");
        let target = format!("s3://{BUCKET}/chat");
        said(&original.run(&["restore", &target, "--to", text(&to)]));
        let copy = TestServer::with(&[("DATA_DIR", text(&to))]);
        let both = Self {
            service,
            world,
            copy,
        };
        both.put_logo(&both.copy);
        said(&both.place(&both.copy).run(&["backup"]));
        std::fs::remove_file(both.copy.data_dir().join("asset/logo")).unwrap();
        both
    }

    fn place<'a>(&'a self, server: &'a TestServer) -> Place<'a> {
        Place {
            service: &self.service,
            server,
        }
    }

    fn put_logo(&self, server: &TestServer) {
        let folder = server.data_dir().join("asset");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("logo"), "logo ".repeat(1000)).unwrap();
    }

    /// Makes a backup of the original, and a whole one of the copy just before its manifest is
    /// stored. Restores the original's.
    fn back_up_both(&self) -> TestServer {
        let what = format!("PUT /{BUCKET}/chat/backups/");
        let gate = Gate::before(&self.service, what);
        let original = self.place(&self.world.server);
        let made = std::thread::scope(|scope| {
            let making = scope.spawn(|| said(&original.run_at(&gate.endpoint, &["backup"])));
            gate.held.recv_timeout(PATIENCE).unwrap();
            let told = said(&self.place(&self.copy).run(&["backup", "--keep", "1"]));
            gate.go_on.send(()).unwrap();
            assert!(told.contains("removed"), "{told}");
            making.join().unwrap()
        });
        let name = made.split(&[' ', ':'][..]).nth(1).unwrap();
        said(&original.run(&["backup", "--verify", "--backup", name]));
        let to = self.world.server.folder().join("restored");
        let target = format!("s3://{BUCKET}/chat");
        let restore = ["restore", &target, "--to", text(&to), "--backup", name];
        said(&original.run(&restore));
        TestServer::with(&[("DATA_DIR", text(&to))])
    }
}

/// The copy has the segment as it was before, and did not make this form of it.
#[test]
fn a_copy_leaves_the_segment_in_which_its_original_has_just_erased_something() {
    let both = Both::start();
    let body = json!({"record": "single/1", "why": "asked for"});
    both.world.master().call("erase:record", body).result();
    let restored = both.back_up_both();
    assert_eq!(records(&restored, &Json::Null)[0], json!([]));
    assert_eq!(
        records(&restored, &Json::Null)[3].as_array().unwrap().len(),
        30
    );
}

/// So far, only the backup that the copy removes had the file.
#[test]
fn a_file_that_a_backup_found_and_that_is_removed_meanwhile_is_put_again() {
    let both = Both::start();
    both.put_logo(&both.world.server);
    let restored = both.back_up_both();
    let logo = std::fs::read_to_string(restored.data_dir().join("asset/logo"));
    assert_eq!(logo.unwrap(), "logo ".repeat(1000));
}
