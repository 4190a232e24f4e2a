//! An empty database, for the hooks of v1's Python runtime.
//!
//! That runtime opens a transaction for every hook, even one that does not use it, and fails
//! without a database. This one speaks as much of PostgreSQL's protocol as that takes: connect,
//! begin, set the search path, commit or roll back, and the queries that the libraries send when
//! they connect. Everything else is refused with SQLSTATE 0A000, so that a hook that does want SQL
//! fails with a reason. Records are available through the API only.

use std::net::SocketAddr;
use std::sync::Arc;

use skytrail_actors::spawn::spawn_named;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::accept::next_connection;

/// The maximum number of connections.
const MAX_CONNECTIONS: usize = 256;
/// The maximum length of a message.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const PROTOCOL_3: u32 = 196_608;
/// The answer to SQL. A plugin gets another database only on request, even if the server has one.
const NO_SQL: &str = "this plugin has no SQL: set its DATABASE_URL (over exec, PLUGIN_DATABASE_URL at \
                      the server), or use the API for records";
/// The type of all columns.
const TEXT: u32 = 25;

/// The server parameters that a client is told when it connects.
const PARAMETERS: [(&str, &str); 7] = [
    ("server_version", "12.0"),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "UTC"),
    ("integer_datetimes", "on"),
];

/// The queries of the libraries when they connect, with the column and the value of each answer.
const ANSWERS: [(&str, &str, &str); 5] = [
    ("select pg_catalog.version()", "version", "PostgreSQL 12.0"),
    ("select version()", "version", "PostgreSQL 12.0"),
    ("select current_schema()", "current_schema", "public"),
    (
        "show transaction isolation level",
        "transaction_isolation",
        "read committed",
    ),
    (
        "show standard_conforming_strings",
        "standard_conforming_strings",
        "on",
    ),
];

/// The database, not serving yet.
pub(super) struct NullDatabase {
    listener: TcpListener,
    address: SocketAddr,
}

impl NullDatabase {
    /// Binds an address.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub(super) async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Returns the address that clients are told. Some insist on a password in it.
    pub(super) fn url(&self) -> String {
        format!("postgresql://plugin:none@{}/none", self.address)
    }

    /// Serves until the token is cancelled.
    pub(super) fn serve(self, ending: CancellationToken) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        spawn_named("null database", async move {
            let next = async || {
                let place = Arc::clone(&places).acquire_owned().await.ok()?;
                let accept = || self.listener.accept();
                let (stream, _) = next_connection(accept, "null database").await;
                Some((place, stream))
            };
            while let Some(Some((place, stream))) = ending.run_until_cancelled(next()).await {
                let ending = ending.clone();
                spawn_named("null database session", async move {
                    let session = ending.run_until_cancelled(Session::run(stream)).await;
                    if let Some(Err(error)) = session {
                        tracing::debug!(%error, "null database: connection broken");
                    }
                    drop(place);
                });
            }
        });
    }
}

/// The state of a client's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transaction {
    None,
    Open,
    Failed,
}

impl Transaction {
    fn letter(self) -> u8 {
        match self {
            Self::None => b'I',
            Self::Open => b'T',
            Self::Failed => b'E',
        }
    }

    /// Answers a statement: returns the messages to the client, except the one that says it may
    /// continue.
    fn answer(&mut self, sql: &str) -> Vec<u8> {
        let words: Vec<_> = sql.split_whitespace().collect();
        let words = words.join(" ").to_lowercase();
        let words = words.trim_end_matches([';', ' ']);
        let verb = words.split(' ').next().unwrap_or_default();
        let answer = ANSWERS.iter().find(|(question, ..)| *question == words);
        match (verb, answer) {
            ("begin", _) => {
                *self = Self::Open;
                done("BEGIN")
            }
            ("commit" | "rollback", _) => {
                let is_kept = verb == "commit" && *self != Self::Failed;
                *self = Self::None;
                done(if is_kept { "COMMIT" } else { "ROLLBACK" })
            }
            (_, Some((_, column, value))) => table(&[*column], Some(*value)),
            _ if words.contains("typname = 'hstore'") => table(&["oid", "typarray"], None),
            _ if words.starts_with("set search_path") => done("SET"),
            _ => {
                if *self == Self::Open {
                    *self = Self::Failed;
                }
                refusal(NO_SQL)
            }
        }
    }
}

struct Session {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    transaction: Transaction,
}

impl Session {
    async fn run(stream: TcpStream) -> std::io::Result<()> {
        let (reader, writer) = stream.into_split();
        let mut session = Self {
            reader: BufReader::new(reader),
            writer,
            transaction: Transaction::None,
        };
        if session.greet().await? {
            session.serve().await?;
        }
        Ok(())
    }

    /// Lets any client in. Returns false for one with another protocol.
    async fn greet(&mut self) -> std::io::Result<bool> {
        loop {
            let length = self.reader.read_u32().await?;
            let body = self.read(length).await?;
            let code = body.first_chunk().map(|code| u32::from_be_bytes(*code));
            match code {
                Some(SSL_REQUEST | GSS_REQUEST) => self.writer.write_all(b"N").await?,
                Some(PROTOCOL_3) => break,
                _ => return Ok(false),
            }
        }
        // No password is required.
        let mut welcome = message(b'R', &0_u32.to_be_bytes());
        for (name, value) in PARAMETERS {
            welcome.extend(message(b'S', format!("{name}\0{value}\0").as_bytes()));
        }
        welcome.extend(message(b'Z', &[self.transaction.letter()]));
        self.writer.write_all(&welcome).await?;
        Ok(true)
    }

    async fn serve(&mut self) -> std::io::Result<()> {
        loop {
            let kind = self.reader.read_u8().await?;
            let length = self.reader.read_u32().await?;
            let body = self.read(length).await?;
            let mut answer = match kind {
                b'X' => return Ok(()),
                b'Q' => {
                    let sql = String::from_utf8_lossy(&body);
                    self.transaction.answer(sql.trim_end_matches('\0'))
                }
                b'S' => Vec::new(),
                _ => refusal("only simple queries are supported"),
            };
            answer.extend(message(b'Z', &[self.transaction.letter()]));
            self.writer.write_all(&answer).await?;
        }
    }

    /// Reads the rest after a length, which includes itself.
    async fn read(&mut self, length: u32) -> std::io::Result<Vec<u8>> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let rest = length.checked_sub(size_of::<u32>());
        let rest = rest.filter(|rest| *rest <= MAX_MESSAGE_BYTES);
        let rest = rest.ok_or(std::io::ErrorKind::InvalidData)?;
        let mut body = vec![0; rest];
        self.reader.read_exact(&mut body).await?;
        Ok(body)
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + size_of::<u32>()).unwrap_or(u32::MAX);
    let mut bytes = vec![kind];
    bytes.extend(length.to_be_bytes());
    bytes.extend(body);
    bytes
}

fn done(tag: &str) -> Vec<u8> {
    message(b'C', format!("{tag}\0").as_bytes())
}

fn refusal(why: &str) -> Vec<u8> {
    let fields = format!("SERROR\0VERROR\0C0A000\0M{why}\0\0");
    message(b'E', fields.as_bytes())
}

/// Returns a table of strings with one row, or none.
fn table(columns: &[&str], value: Option<&str>) -> Vec<u8> {
    const ANY_LENGTH: u16 = u16::MAX;
    let count = |number: usize| u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
    let mut head = Vec::from(count(columns.len()));
    for column in columns {
        head.extend(column.bytes().chain([0]));
        head.extend([0; 6]);
        head.extend(TEXT.to_be_bytes());
        head.extend(ANY_LENGTH.to_be_bytes());
        head.extend(u32::MAX.to_be_bytes());
        head.extend([0; 2]);
    }
    let mut bytes = message(b'T', &head);
    if let Some(value) = value {
        let mut row = Vec::from(count(1));
        row.extend(u32::try_from(value.len()).unwrap_or_default().to_be_bytes());
        row.extend(value.bytes());
        bytes.extend(message(b'D', &row));
    }
    bytes.extend(done(if value.is_some() {
        "SELECT 1"
    } else {
        "SELECT 0"
    }));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(mut bytes: &[u8]) -> String {
        let mut kinds = String::new();
        while let [kind, a, b, c, d, ..] = bytes {
            kinds.push(char::from(*kind));
            let length = u32::from_be_bytes([*a, *b, *c, *d]);
            bytes = &bytes[1 + usize::try_from(length).unwrap()..];
        }
        assert!(bytes.is_empty());
        kinds
    }

    #[test]
    fn a_hook_that_uses_no_sql_gets_through() {
        let mut transaction = Transaction::None;
        let mut ask = |sql: &str| (kinds(&transaction.answer(sql)), transaction.letter());
        assert_eq!(ask("BEGIN"), ("C".to_owned(), b'T'));
        let path = "SET search_path TO \"app_myapp\", public;";
        assert_eq!(ask(path), ("C".to_owned(), b'T'));
        assert_eq!(
            ask("  select\n current_schema() ; "),
            ("TDC".to_owned(), b'T')
        );
        let hstore = "SELECT t.oid, typarray FROM pg_type t WHERE typname = 'hstore'";
        assert_eq!(ask(hstore), ("TC".to_owned(), b'T'));
        assert_eq!(ask("COMMIT"), ("C".to_owned(), b'I'));
    }

    #[test]
    fn sql_is_refused_and_the_transaction_with_it() {
        let mut transaction = Transaction::None;
        transaction.answer("begin");
        let refused = transaction.answer("SELECT * FROM note");
        assert!(String::from_utf8_lossy(&refused).contains("C0A000"));
        assert_eq!(transaction.letter(), b'E');
        assert_eq!(transaction.answer("COMMIT"), done("ROLLBACK"));
        assert_eq!(transaction.letter(), b'I');
    }
}
