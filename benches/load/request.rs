//! The requests of the rows, byte for byte as a client library would send them.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::Write as _;

use memchr::memmem;

use crate::drive::Job;
use crate::http::Response;

/// Occurs once in every record of an answer, and never in an error.
const RECORD_MARK: &[u8] = b"_created_at\":";
/// The number of different rooms.
const ROOMS: u64 = 1000;
/// The room that queries ask for.
pub(crate) const ASKED_ROOM: u64 = 17;

/// The caller: the keys of every request, in head and body as the published library sends them.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) api_key: String,
    pub(crate) access_token: String,
}

impl Session {
    /// Writes a request to an action; `members` are the body's own members, each followed by a
    /// comma.
    pub(crate) fn write(&self, into: &mut Vec<u8>, path: &str, action: &str, members: &str) {
        let Self {
            api_key,
            access_token,
        } = self;
        let body = format!(
            "{{{members}\"action\":\"{action}\",\"api_key\":\"{api_key}\",\
             \"access_token\":\"{access_token}\"}}"
        );
        write!(
            into,
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Accept: application/json\r\nX-Skygear-SDK-Version: skygear-SDK-JS/1.7.2\r\n\
             X-Skygear-API-Key: {api_key}\r\nX-Skygear-Access-Token: {access_token}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("memory");
    }
}

/// Writes the small record with this number; the same number always gives the same record.
pub(crate) fn write_record(into: &mut String, kind: &str, number: u64) {
    write!(
        into,
        "{{\"_id\":\"{}\",\"body\":\"message {number:012} of some forty letters\",\
         \"room\":\"r{}\",\"count\":{number}}}",
        record_id(kind, number),
        room(number)
    )
    .expect("memory");
}

pub(crate) fn record_id(kind: &str, number: u64) -> String {
    let bits = u128::from(mix(number)) << 64 | u128::from(mix(!number));
    format!(
        "{kind}/{}",
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
    )
}

pub(crate) fn room(number: u64) -> u64 {
    mix(number ^ 0x5eed) % ROOMS
}

/// Scatters numbers (the finaliser of splitmix64).
fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn num_records(response: &Response<'_>) -> usize {
    memmem::find_iter(response.body, RECORD_MARK).count()
}

/// Creates records, `batch` with each request. The bare server appends the same bytes.
pub(crate) struct Create<'a> {
    /// Their type.
    pub(crate) kind: &'a str,
    pub(crate) session: &'a Session,
    /// The number of the next record.
    pub(crate) next: &'a Cell<u64>,
    pub(crate) batch: u64,
    pub(crate) is_bare: bool,
}

impl Job for Create<'_> {
    fn write_request(&self, into: &mut Vec<u8>) {
        let first = self.next.get();
        self.next.set(first + self.batch);
        let mut members = String::with_capacity(256 * usize::try_from(self.batch).unwrap_or(1));
        members.push_str("\"database_id\":\"_public\",\"records\":[");
        for number in first..first + self.batch {
            if number > first {
                members.push(',');
            }
            write_record(&mut members, self.kind, number);
        }
        members.push_str("],");
        let path = if self.is_bare {
            "/append"
        } else {
            "/record/save"
        };
        self.session.write(into, path, "record:save", &members);
    }

    fn is_success(&self, response: &Response<'_>) -> bool {
        response.status == 200 && (self.is_bare || num_records(response) as u64 == self.batch)
    }

    fn weight(&self) -> u64 {
        self.batch
    }
}

/// Fetches one record by its id, another one each time.
pub(crate) struct Fetch<'a> {
    pub(crate) session: &'a Session,
    pub(crate) turn: &'a Cell<u64>,
    /// Records from 0 up to this number exist.
    pub(crate) num_records: u64,
}

impl Job for Fetch<'_> {
    fn write_request(&self, into: &mut Vec<u8>) {
        let turn = self.turn.get();
        self.turn.set(turn + 1);
        let id = record_id("message", mix(turn) % self.num_records);
        let members = format!("\"database_id\":\"_public\",\"ids\":[\"{id}\"],");
        self.session
            .write(into, "/record/fetch", "record:fetch", &members);
    }

    fn is_success(&self, response: &Response<'_>) -> bool {
        response.status == 200 && num_records(response) == 1
    }
}

/// Queries the newest fifty records of one room.
pub(crate) struct Newest<'a> {
    pub(crate) session: &'a Session,
    /// How many of them there are.
    pub(crate) expected: usize,
}

impl Job for Newest<'_> {
    fn write_request(&self, into: &mut Vec<u8>) {
        let members = format!(
            "\"database_id\":\"_public\",\"record_type\":\"message\",\"limit\":50,\
             \"predicate\":[\"eq\",{{\"$type\":\"keypath\",\"$val\":\"room\"}},\"r{ASKED_ROOM}\"],\
             \"sort\":[[{{\"$type\":\"keypath\",\"$val\":\"_created_at\"}},\"desc\"]],"
        );
        self.session
            .write(into, "/record/query", "record:query", &members);
    }

    fn is_success(&self, response: &Response<'_>) -> bool {
        response.status == 200 && num_records(response) == self.expected
    }
}

/// Queries any one record. A query sees everything that was acknowledged before, so its answer
/// shows that the server has nothing left to catch up with.
pub(crate) struct Barrier<'a> {
    pub(crate) session: &'a Session,
}

impl Job for Barrier<'_> {
    fn write_request(&self, into: &mut Vec<u8>) {
        let members = "\"database_id\":\"_public\",\"record_type\":\"message\",\"limit\":1,";
        self.session
            .write(into, "/record/query", "record:query", members);
    }

    fn is_success(&self, response: &Response<'_>) -> bool {
        response.status == 200 && num_records(response) == 1
    }
}

/// Gets `size` bytes from the bare server.
pub(crate) struct BareGet {
    pub(crate) size: usize,
}

impl Job for BareGet {
    fn write_request(&self, into: &mut Vec<u8>) {
        write!(
            into,
            "GET /bytes/{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
            self.size
        )
        .expect("memory");
    }

    fn is_success(&self, response: &Response<'_>) -> bool {
        response.status == 200 && response.body.len() == self.size
    }
}

/// Signs up the user who sends all requests.
pub(crate) struct SignUp<'a> {
    pub(crate) api_key: &'a str,
}

impl Job for SignUp<'_> {
    fn write_request(&self, into: &mut Vec<u8>) {
        let members = "\"auth_data\":{\"username\":\"load\"},\"password\":\"load driver\",";
        let session = Session {
            api_key: self.api_key.to_owned(),
            access_token: String::new(),
        };
        session.write(into, "/auth/signup", "auth:signup", members);
    }

    fn is_success(&self, response: &Response<'_>) -> bool {
        response.status == 200
    }
}
