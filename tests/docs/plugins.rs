//! docs/PLUGINS.md, and the README's plugin, played once in each language: the snippets are put
//! into the named files, the programs are started as described, and the requests must be answered
//! as promised.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Deserializer, Value as Json, json};

use super::play::Player;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::program::{Program, repository, set_up};
use crate::support::server::{MASTER_KEY, TestServer};

const PAGE: &str = include_str!("../../docs/PLUGINS.md");
const ADDRESS: &str = "http://127.0.0.1:3000";

/// A fenced block: the words after the fence, and its content.
struct Block {
    line: usize,
    kind: Vec<&'static str>,
    text: String,
}

fn blocks(page: &'static str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else {
            continue;
        };
        let text: Vec<&str> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| *line != "```")
            .collect();
        blocks.push(Block {
            line: number + 1,
            kind: kind.split(' ').collect(),
            text: text.join("\n"),
        });
    }
    blocks
}

/// Returns the only block of a kind.
fn only<'a>(blocks: &'a [Block], kind: &[&str]) -> &'a str {
    let mut found = blocks.iter().filter(|block| block.kind == kind);
    let (first, second) = (found.next(), found.next());
    assert!(second.is_none(), "two blocks {kind:?}");
    &first.unwrap_or_else(|| panic!("no block {kind:?}")).text
}

/// A reader who follows the page in one of its languages.
struct Reader<'a> {
    blocks: &'a [Block],
    language: &'static str,
    server: TestServer,
    folder: tempfile::TempDir,
}

impl<'a> Reader<'a> {
    /// Writes the files of the language.
    fn new(blocks: &'a [Block], language: &'static str, server: TestServer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for block in blocks {
            if let [its, file] = block.kind[..]
                && its == language
            {
                files.entry(file).or_default().push(&block.text);
            }
        }
        assert!(!files.is_empty());
        for (name, parts) in files {
            std::fs::write(folder.path().join(name), parts.join("\n\n") + "\n").unwrap();
        }
        Self {
            blocks,
            language,
            server,
            folder,
        }
    }

    /// Returns a command that runs a line in the shell, where the language's package is installed.
    fn shell(&self, line: &str) -> Command {
        let programs = self.programs();
        let line = line.replace(ADDRESS, &self.server.base_url);
        let line = format!("PATH='{}':$PATH\n{line}", programs.display());
        let mut command = Command::new("bash");
        command
            .args(["-c", &line])
            .current_dir(self.folder.path())
            .env("SKYGEAR_ENDPOINT", &self.server.base_url)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null());
        command
    }

    /// Installs the language's package; returns the folder of its programs.
    fn programs(&self) -> PathBuf {
        if self.language == "python" {
            return set_up(".venv/bin");
        }
        set_up("sdks/js/node_modules/ws");
        let modules = self.folder.path().join("node_modules");
        let programs = modules.join(".bin");
        if !programs.exists() {
            std::fs::create_dir_all(&programs).unwrap();
            let package = repository("sdks/js");
            link(&package, &modules.join("skytrail-plugin"));
            let program = package.join("bin/skytrail-plugin.js");
            link(&program, &programs.join("skytrail-plugin"));
        }
        programs
    }

    /// Starts a worker as the page says; `npx` would only look the program up.
    fn start(&self, kind: &[&str]) -> Program {
        let line = only(self.blocks, kind).replace("npx ", "");
        let line = Player::new(&self.server).filled(&line);
        Program::start(&mut self.shell(&format!("exec env {line}")))
    }

    fn await_ready(&self) {
        let client = Client::anonymous(&self.server);
        eventually("the plugin is ready", || {
            let answer = client.call("_status:healthz", json!({}));
            (answer.status == 200).then_some(())
        });
    }

    /// Plays the requests, in order; returns the differences.
    fn play(&self) -> Vec<String> {
        let mut player = Player::new(&self.server);
        let mut wrong = Vec::new();
        let mut num_played = 0;
        for (block, answer) in self.blocks.iter().zip(&self.blocks[1..]) {
            if block.kind != ["sh"] || !block.text.contains(ADDRESS) {
                continue;
            }
            let said = self.run(&player.filled(&block.text));
            let differences = match answer.kind[..] {
                ["text"] if said.trim_end() == answer.text => Vec::new(),
                ["text"] => vec![format!("the page has {}, the answer {said}", answer.text)],
                ["json"] => compare(&mut player, &answer.text, &said),
                _ => vec!["no answer on the page".to_owned()],
            };
            wrong.extend(
                differences
                    .iter()
                    .map(|it| format!("line {}: {it}", block.line)),
            );
            num_played += 1;
        }
        assert!(num_played > 10);
        wrong
    }

    /// Tries the plugin on what it has done.
    fn replay(&self) {
        let line = only(self.blocks, &["sh", self.language, "replay"]);
        let line = line.replace(
            "skytrail replay",
            &format!("{} replay", env!("CARGO_BIN_EXE_skytrail")),
        );
        let line = Player::new(&self.server).filled(&line).replace("npx ", "");
        let mut command = self.shell(&line);
        let output = command.env("HOST", self.server.address()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("NOTES, positions 1 to "), "{output:?}");
    }

    fn run(&self, line: &str) -> String {
        let done = self.shell(line).stderr(Stdio::inherit()).output().unwrap();
        assert!(done.status.success(), "{line}: {}", done.status);
        String::from_utf8(done.stdout).unwrap()
    }
}

fn link(target: &Path, link: &Path) {
    std::os::unix::fs::symlink(target, link).unwrap();
}

/// Starts the server with the settings of the page's command.
fn serve(line: &str) -> TestServer {
    let words = line.strip_suffix(" skytrail serve").unwrap();
    let settings: Vec<(&str, &str)> = words
        .split(' ')
        .map(|word| word.split_once('=').unwrap())
        .filter(|(name, _)| !name.ends_with("_KEY"))
        .collect();
    assert!(words.contains("API_KEY=client-key MASTER_KEY=master-key"));
    TestServer::with(&settings)
}

/// Compares a sequence of JSON values with those of the page.
fn compare(player: &mut Player<'_>, expected: &str, said: &str) -> Vec<String> {
    let values =
        |text: &str| -> Result<Vec<Json>, _> { Deserializer::from_str(text).into_iter().collect() };
    let (Ok(expected), Ok(found)) = (values(expected), values(said)) else {
        return vec![format!("no JSON, on the page or in the answer: {said}")];
    };
    if expected.len() != found.len() {
        return vec![format!("as many answers as on the page: {said}")];
    }
    let pairs = expected.iter().zip(&found);
    pairs
        .flat_map(|(expected, found)| player.differences(expected, found))
        .collect()
}

fn follow(language: &'static str) {
    let blocks = blocks(PAGE);
    let server = serve(only(&blocks, &["sh", "server"]));
    let reader = Reader::new(&blocks, language, server);
    let mut first = reader.start(&["sh", language]);
    reader.await_ready();
    let wrong = reader.play();
    assert!(wrong.is_empty(), "docs/PLUGINS.md:\n{}", wrong.join("\n"));

    reader.run(only(&blocks, &["sh", "test", language]));
    reader.replay();

    // The next generation takes over, and the first worker ends by itself.
    let next = reader.start(&["sh", language, "next"]);
    assert!(first.wait().success());
    let hello = reader.run(&format!(
        "curl -sf {ADDRESS}/note/hello -d '{{\"args\": [\"Ada\"]}}'"
    ));
    assert!(hello.contains("hello Ada"), "{hello}");
    next.terminate();
}

#[test]
fn the_guide_works_in_python() {
    follow("python");
}

#[test]
fn the_guide_works_in_javascript() {
    follow("js");
}

/// The README's plugin does what the README says.
#[test]
fn the_first_plugin_of_the_readme_works_in_both_languages() {
    let blocks = blocks(include_str!("../../README.md"));
    for (language, line) in [("python", "python notes.py"), ("js", "node notes.mjs")] {
        let server = TestServer::with(&[("PLUGINS", "NOTES")]);
        let reader = Reader::new(&blocks, language, server);
        let mut command = reader.shell(&format!("exec {line}"));
        let _plugin = Program::start(command.env("MASTER_KEY", MASTER_KEY));
        reader.await_ready();
        let ada = Client::signed_up(&reader.server, "ada");
        let saved = ada.save("note/1", json!({"text": "three small words"}));
        assert_eq!(saved["words"], 3);
        let empty = json!({"records": [{"_id": "note/2"}]});
        let refused = ada.call("record:save", empty).result();
        assert_eq!(refused[0]["message"], "a note needs a text");
        let hello = ada.call("note:hello", json!({"args": ["Ada"]}));
        assert_eq!(hello.result(), "hello Ada");
    }
}

/// A test above runs every snippet.
#[test]
fn no_block_of_the_guide_is_left_out() {
    let blocks = blocks(PAGE);
    for block in &blocks {
        let is_known = match block.kind[..] {
            ["python", file] => file.ends_with(".py"),
            ["js", file] => file.ends_with(".mjs"),
            ["sh", "server" | "python" | "js"] | ["json" | "text"] => true,
            [
                "sh",
                "test" | "python" | "js",
                "python" | "js" | "next" | "replay",
            ] => true,
            ["sh"] => block.text.contains(ADDRESS),
            _ => false,
        };
        assert!(is_known, "line {}: {:?}", block.line, block.kind);
    }
    assert!(blocks.len() > 40);
}
