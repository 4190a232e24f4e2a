//! A careful forger with write access to the log's files who knows their format: checksums are
//! corrected, and so is everything else that the forger knows of.

use std::path::PathBuf;

use skytrail_schema::chain::{self, ChainHash};
use skytrail_schema::codec::split_commit;

use crate::support::server::TestServer;

const HEADER_BYTES: usize = 72;

/// A commit as the forger sees it.
#[derive(Clone)]
pub struct Forged {
    pub header: Vec<u8>,
    /// Head, salt and payload of each event.
    pub events: Vec<(Vec<u8>, [u8; 16], Vec<u8>)>,
    pub chain: ChainHash,
}

/// A log of one segment.
#[derive(Clone)]
pub struct Forger {
    path: PathBuf,
    header: Vec<u8>,
    pub commits: Vec<Forged>,
}

impl Forger {
    /// Reads the log of a stopped server.
    pub fn of(server: &TestServer) -> Self {
        let path = server
            .data_dir()
            .join("journal/00000000000000000001.journal");
        let bytes = std::fs::read(&path).unwrap();
        let mut commits = Vec::new();
        let mut rest = &bytes[HEADER_BYTES..];
        while let Some(length) = rest
            .first_chunk()
            .map(|bytes| u32::from_le_bytes(*bytes) as usize)
        {
            if length == 0 {
                break;
            }
            let parts = split_commit(&rest[12..12 + length]).unwrap();
            let events = parts.events.iter().map(|event| {
                let (salt, payload) = event.content.unwrap();
                (event.head.to_vec(), salt, payload.to_vec())
            });
            commits.push(Forged {
                header: parts.header.to_vec(),
                events: events.collect(),
                chain: parts.chain,
            });
            rest = &rest[12 + length..];
        }
        Self {
            path,
            header: bytes[..HEADER_BYTES].to_vec(),
            commits,
        }
    }

    /// Writes it back.
    pub fn write(&self) {
        let mut bytes = self.header.clone();
        for commit in &self.commits {
            let commit = commit.encode();
            let group = u32::try_from(bytes.len()).unwrap().to_le_bytes();
            let mut checksum = crc32fast::Hasher::new();
            checksum.update(&group);
            checksum.update(&commit);
            bytes.extend(u32::try_from(commit.len()).unwrap().to_le_bytes());
            bytes.extend(checksum.finalize().to_le_bytes());
            bytes.extend(group);
            bytes.extend(commit);
        }
        std::fs::write(&self.path, bytes).unwrap();
    }

    /// Renumbers the positions of all commits.
    pub fn renumber(&mut self) {
        let mut position = 1;
        for commit in &mut self.commits {
            commit.set_position(position);
            position += commit.events.len() as u64;
        }
    }

    /// Recomputes every chain hash.
    pub fn link(&mut self) {
        let mut previous = chain::GENESIS;
        for commit in &mut self.commits {
            let hashes = commit.events.iter();
            let hashes: Vec<[u8; 32]> = hashes
                .map(|(_, salt, payload)| chain::payload_hash(salt, payload))
                .collect();
            let events = commit.events.iter().zip(&hashes);
            let covered = events.flat_map(|((head, ..), hash)| [head.as_slice(), hash.as_slice()]);
            commit.chain = chain::link(&previous, &commit.header, covered);
            previous = commit.chain;
        }
    }

    /// Changes the content of an event.
    pub fn edit(&mut self, number: usize) {
        let (.., payload) = &mut self.commits[number].events[0];
        let text = String::from_utf8(payload.clone()).unwrap();
        assert!(text.contains("honest"), "{text}");
        *payload = text.replace("honest", "forged").into_bytes();
    }
}

impl Forged {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.header.clone();
        for (head, salt, payload) in &self.events {
            bytes.extend(head);
            // Payloads about a user are sealed, and marked as such.
            let is_sealed = payload.starts_with(br#"{"key":"#);
            bytes.push(if is_sealed { 4 } else { 0 });
            bytes.extend(salt);
            put_varint(&mut bytes, payload.len() as u64);
            bytes.extend(payload);
        }
        bytes.extend(self.chain);
        bytes
    }

    fn set_position(&mut self, position: u64) {
        // Format, flags, actor, id; then the position.
        let start = 3 + 16;
        let length = self.header[start..]
            .iter()
            .take_while(|byte| **byte > 0x7f)
            .count()
            + 1;
        let mut number = Vec::new();
        put_varint(&mut number, position);
        self.header.splice(start..start + length, number);
    }
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap());
}
