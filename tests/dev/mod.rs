//! `skytrail dev`: a developer writes a plugin, and sees immediately what it does.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::support::client::send;
use crate::support::eventually;
use crate::support::program::set_up;
use crate::support::server::{API_KEY, MASTER_KEY};

/// The command, with its output.
struct Dev {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Dev {
    fn start(folder: &Path, plugin: &str) -> Self {
        Self::start_with(folder, plugin, &[])
    }

    fn start_with(folder: &Path, plugin: &str, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
        command.args(["dev", "--name", "NOTES", "--plugin", plugin]);
        command.args(more);
        command.env_clear().current_dir(folder);
        command.envs([
            ("HOST", "127.0.0.1:0"),
            ("API_KEY", API_KEY),
            ("MASTER_KEY", MASTER_KEY),
            ("DISK_RESERVE_BYTES", "0"),
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::inherit()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (lines, heard) = (child.stdout.take().unwrap(), Arc::clone(&said));
        std::thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                heard.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { child, said }
    }

    fn says(&self, what: &str) -> String {
        eventually(&format!("{what:?} is said"), || {
            let said = self.said.lock().unwrap();
            let mut lines = said.lines();
            lines.find(|line| line.contains(what)).map(str::to_owned)
        })
    }

    fn address(&self) -> String {
        let ready = "skytrail: ready on ";
        self.says(ready).replace(ready, "")
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // When asked to end, it ends its plugin as well.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        println!("{}", self.said.lock().unwrap());
    }
}

/// Writes a plugin whose lambda returns a number.
fn write(folder: &Path, body: &str) {
    let text =
        format!("import skytrail\n\n\n@skytrail.op(\"version\")\ndef version():\n    {body}\n");
    std::fs::write(folder.join("plugin.py"), text).unwrap();
}

fn version(base_url: &str) -> Json {
    let body = json!({"api_key": API_KEY}).to_string().into_bytes();
    let url = format!("{base_url}/version");
    send("POST", &url, &[], Some(body)).unwrap().json()
}

#[test]
fn a_plugin_starts_again_when_its_file_changes_and_each_call_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "return 1");
    let python = set_up(".venv/bin/python");
    let plugin = format!("'{}' -m skytrail plugin.py", python.display());
    let mut dev = Dev::start(folder, &plugin);
    let address = dev.address();
    let answers = |result: Json| {
        eventually(&format!("the plugin answers {result}"), || {
            (version(&address)["result"] == result).then_some(())
        });
    };
    answers(json!(1));
    assert!(dev.says(" op       version ").ends_with("ok"));

    write(folder, "return 2");
    answers(json!(2));
    dev.says("plugin.py changed, restarting the plugin");
    // A mistake ends the plugin; the server stays, and the next change fixes it.
    write(folder, "return (");
    dev.says("dev: the plugin ended: exit status: 1");
    assert_eq!(version(&address)["error"]["code"], 118);
    write(folder, "raise ValueError('never')");
    eventually("the plugin fails", || {
        (version(&address)["error"]["code"] == 10000).then_some(())
    });
    assert!(dev.says("error 10000").contains("never"));
    write(folder, "return 3");
    answers(json!(3));

    let pid = dev.child.id().to_string();
    Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    let status = eventually("the command ends", || dev.child.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[test]
fn what_a_plugin_writes_beside_its_code_does_not_start_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let writes = |version: u32| {
        let body = format!(
            "for name in ('notes.log', 'state.json', 'cache.sqlite', 'cache.sqlite-journal'):\n        \
             open(name, 'a').write('x')\n    return {version}"
        );
        write(folder, &body);
    };
    writes(1);
    let python = set_up(".venv/bin/python");
    let plugin = format!("'{}' -m skytrail plugin.py", python.display());
    let dev = Dev::start(folder, &plugin);
    let address = dev.address();
    let answers = |result: Json| {
        eventually(&format!("the plugin answers {result}"), || {
            (version(&address)["result"] == result).then_some(())
        });
    };
    answers(json!(1));
    // The changes are handled in order, so the earlier ones come first.
    writes(2);
    answers(json!(2));
    dev.says("changed, restarting the plugin");
    let said = dev.said.lock().unwrap().clone();
    let changes = said
        .lines()
        .filter(|line| line.contains(" changed, restarting the plugin"));
    let changes: Vec<&str> = changes.collect();
    assert!(
        changes.iter().all(|line| line.contains("plugin.py")) && !changes.is_empty(),
        "{changes:?}"
    );
}

#[test]
fn a_file_that_is_named_starts_the_plugin_again_however_it_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let words = folder.join("words.txt");
    let replace = |text: &str| {
        let beside = folder.join("words.new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, &words).unwrap();
    };
    replace("one");
    write(folder, "return open('words.txt').read()");
    let python = set_up(".venv/bin/python");
    let plugin = format!("'{}' -m skytrail plugin.py", python.display());
    let dev = Dev::start_with(folder, &plugin, &["--watch", "words.txt"]);
    let starts = || {
        let said = dev.said.lock().unwrap();
        said.matches("words.txt changed, restarting the plugin")
            .count()
    };
    for text in ["two", "three", "four"] {
        let address = dev.address();
        eventually("the plugin answers", || {
            version(&address)["result"].is_string().then_some(())
        });
        // One replacement can look like two changes.
        let before = starts();
        replace(text);
        eventually("it starts again", || (starts() > before).then_some(()));
    }
}

#[test]
fn a_command_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path(), "no-such-program --x");
    dev.says("no-such-program cannot be run");
    drop(dev);
    let mut dev = Dev::start(folder.path(), "a 'b");
    let status = eventually("the command ends", || dev.child.try_wait().unwrap());
    assert!(!status.success());
}
