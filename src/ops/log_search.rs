//! `skytrail log search`: searches what happened by actor, target, origin and time; prints it for
//! people, or writes it to a file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};
use skytrail_schema::json;
use skytrail_schema::time::Timestamp;

use super::remote::{self, RunningServer, ServerFlag};
use super::unwritten;
use super::visible::visible;
use crate::action::log::table::Format;
use crate::config::Config;
use crate::own_file;

/// The number of events in one request.
const PAGE: u64 = 1000;

/// What to search for. A filter that is not given matches everything.
#[derive(Clone, Debug, Args)]
pub struct SearchCommand {
    #[command(flatten)]
    filter: FilterArgs,
    /// From this position of the log on, or from this time on (RFC 3339).
    #[arg(long, value_name = "MOMENT")]
    from: Option<String>,
    /// Up to this position, or up to this time.
    #[arg(long, value_name = "MOMENT")]
    to: Option<String>,
    /// The greatest number of events.
    #[arg(long)]
    limit: Option<u64>,
    /// Prints complete events for programs; the default is lines for people.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Writes to this file, which must be new or empty.
    #[arg(long, value_name = "FILE", requires = "format")]
    output: Option<PathBuf>,
    /// Continues after the last event in the file, which has to be the result of a search.
    #[arg(long, requires = "output", conflicts_with = "limit")]
    resume: bool,
    #[command(flatten)]
    server: ServerFlag,
}

/// Selects events.
#[derive(Clone, Debug, Default, Args)]
struct FilterArgs {
    /// What this user did, by id, user name or email address.
    #[arg(long)]
    user: Option<String>,
    /// What was done with these keys, separated by commas: none, client, master.
    #[arg(long, value_delimiter = ',')]
    key: Vec<String>,
    /// What came from these origins, separated by commas: api, plugin, system, cli, import, sql.
    #[arg(long, value_delimiter = ',')]
    origin: Vec<String>,
    /// What this plugin did, or changed with its hooks.
    #[arg(long)]
    plugin: Option<String>,
    /// What this request caused.
    #[arg(long)]
    request: Option<String>,
    /// What happened to this record, as type/id.
    #[arg(long, conflicts_with = "stream")]
    record: Option<String>,
    /// What happened to this stream, such as `type/note` or `user/<id>`.
    #[arg(long)]
    stream: Option<String>,
    /// What happened to records of these types and to the types themselves, separated by commas.
    #[arg(long = "type", value_delimiter = ',')]
    types: Vec<String>,
    /// Events of these kinds, separated by commas, such as `record.created` or `user`.
    #[arg(long, value_delimiter = ',')]
    kind: Vec<String>,
}

/// A page of the log.
#[derive(Deserialize)]
struct Page {
    result: Vec<Box<RawValue>>,
    info: Info,
}

#[derive(Deserialize)]
struct Info {
    next: Option<u64>,
    head: u64,
}

/// Runs the command.
///
/// # Errors
/// Returns a sentence that says what is wrong.
pub fn run(config: &Config, command: &SearchCommand) -> Result<(), String> {
    let server = RunningServer::find(config, &command.server)?;
    let (mut body, format) = (command.filter.body(), command.format);
    let bound = |flag: &str, text: &Option<String>| {
        let text = text.as_deref();
        text.map(|text| checked_moment(flag, text)).transpose()
    };
    insert(&mut body, "since", bound("--from", &command.from)?);
    insert(&mut body, "until", bound("--to", &command.to)?);
    let Some(path) = &command.output else {
        let mut lines = io::stdout().lock();
        head(&mut lines, format)?;
        return remote::block_on(search(&server, body, command.limit, &mut |event| {
            lines.write_all(line(format, event).as_bytes())
        }));
    };
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let format = format.unwrap_or(Format::Jsonl);
    let (mut file, last) = open(path, format, command.resume)?;
    match last {
        Some(last) => insert(&mut body, "from", Some((last + 1).into())),
        None => head(&mut file, Some(format))?,
    }
    remote::block_on(search(&server, body, command.limit, &mut |event| {
        file.write_all(format.line(event).as_bytes())
    }))?;
    file.flush().map_err(failed)
}

impl FilterArgs {
    fn body(&self) -> Map<String, Json> {
        let mut body = Map::new();
        let texts = [
            ("user", &self.user),
            ("plugin", &self.plugin),
            ("request_id", &self.request),
            ("record", &self.record),
            ("stream", &self.stream),
        ];
        for (name, text) in texts {
            insert(&mut body, name, text.as_deref().map(Json::from));
        }
        let lists = [
            ("keys", &self.key),
            ("origins", &self.origin),
            ("record_types", &self.types),
            ("kinds", &self.kind),
        ];
        for (name, list) in lists {
            body.insert(name.to_owned(), list.clone().into());
        }
        body
    }
}

/// Reads page by page, and passes on each event as it arrives.
async fn search(
    server: &RunningServer,
    mut body: Map<String, Json>,
    limit: Option<u64>,
    take: &mut impl FnMut(&RawValue) -> io::Result<()>,
) -> Result<(), String> {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:40} searched up to {pos}/{len} {per_sec} {eta}");
    bar.set_style(style.map_err(|error| error.to_string())?);
    let mut remaining = limit.unwrap_or(u64::MAX);
    while remaining > 0 {
        body.insert("limit".to_owned(), remaining.min(PAGE).into());
        let page: Page = server.call_for("log:read", &body).await?;
        bar.set_length(page.info.head);
        for event in &page.result {
            take(event).map_err(|error| unwritten(&error))?;
            remaining -= 1;
        }
        let Some(next) = page.info.next else { break };
        bar.set_position(next);
        body.insert("from".to_owned(), next.into());
    }
    bar.finish_and_clear();
    Ok(())
}

fn head(out: &mut impl Write, format: Option<Format>) -> Result<(), String> {
    let head = format.map(Format::head).unwrap_or_default();
    out.write_all(head.as_bytes())
        .map_err(|error| unwritten(&error))
}

fn line(format: Option<Format>, event: &RawValue) -> String {
    match format {
        Some(format) => format.line(event),
        None => {
            let lines = super::log::lines(&json::from_str(event.get()).unwrap_or_default());
            lines.iter().map(|line| visible(line) + "\n").collect()
        }
    }
}

/// Opens the file for writing. To resume, it is opened at the end of its last whole line, whose
/// position is returned.
fn open(
    path: &Path,
    format: Format,
    is_resumed: bool,
) -> Result<(BufWriter<File>, Option<u64>), String> {
    if !is_resumed || !path.exists() {
        let file = own_file::begin(path).map_err(|error| error.to_string())?;
        return Ok((BufWriter::new(file), None));
    }
    let name = path.display();
    let failed = |error: io::Error| format!("{name}: {error}");
    let mut options = File::options();
    let mut file = options.read(true).write(true).open(path).map_err(failed)?;
    let found = end_of(&mut BufReader::new(&file), format).map_err(failed)?;
    let (end, last) = found.ok_or_else(|| {
        format!("{name} is not a search result in this format: name another file, or remove it")
    })?;
    // A result without an event is started again, with its header.
    let end = last.map_or(0, |_| end);
    file.set_len(end).map_err(failed)?;
    file.seek(SeekFrom::End(0)).map_err(failed)?;
    Ok((BufWriter::new(file), last))
}

/// Finds the end of the last whole line of a result, and its position. Returns `None` if the file
/// has content that no search has written.
fn end_of(lines: &mut impl BufRead, format: Format) -> io::Result<Option<(u64, Option<u64>)>> {
    let head = format.head();
    let (mut end, mut last, mut line) = (0, None, Vec::new());
    loop {
        line.clear();
        let length = lines.read_until(b'\n', &mut line)?;
        let Ok(text) = str::from_utf8(&line) else {
            // A character may be cut in two at the end of an unfinished line.
            let is_begun = end > 0 && !line.ends_with(b"\n");
            return Ok(is_begun.then_some((end, last)));
        };
        // A line without a line break is unfinished.
        if !text.ends_with('\n') {
            let is_ours = end > 0 || format.may_begin(text);
            return Ok(is_ours.then_some((end, last)));
        }
        if end > 0 || head.is_empty() {
            let Some(position) = format.position(text) else {
                return Ok(None);
            };
            last = Some(position);
        } else if text != head {
            return Ok(None);
        }
        end += u64::try_from(length).unwrap_or_default();
    }
}

/// Parses a moment: a number is a position, anything else a time.
pub(super) fn moment(text: &str) -> Json {
    text.parse::<u64>().map_or_else(|_| text.into(), Json::from)
}

/// Parses the moment of a flag that has another name than the member of the request.
fn checked_moment(flag: &str, text: &str) -> Result<Json, String> {
    let moment = moment(text);
    if moment.is_string() && Timestamp::parse(text).is_none() {
        return Err(format!(
            "{flag} {text:?}: expected a position of the log or a time (RFC 3339)"
        ));
    }
    Ok(moment)
}

fn insert(body: &mut Map<String, Json>, name: &str, value: Option<Json>) {
    if let Some(value) = value {
        body.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_gone_on_with_behind_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let table = |rows: &str| Format::Csv.head() + rows;
        let head = u64::try_from(table("").len()).unwrap();
        let cases = [
            (
                Format::Jsonl,
                "{\"position\":3}\n{\"position\":9}\n",
                Some(9),
                30,
            ),
            (
                Format::Jsonl,
                "{\"position\":3}\n{\"position\":",
                Some(3),
                15,
            ),
            (Format::Jsonl, "{\"posi", None, 0),
            (Format::Jsonl, "{\"position\":12", None, 0),
            (Format::Csv, &table("12,\"1\"\r\n13,\""), Some(12), head + 8),
            (Format::Csv, &table(""), None, 0),
            (Format::Csv, "posi", None, 0),
        ];
        for (format, text, last, length) in cases {
            std::fs::write(&path, text).unwrap();
            let (_, found) = open(&path, format, true).unwrap();
            let remaining = std::fs::metadata(&path).unwrap().len();
            assert_eq!((found, remaining), (last, length), "{text:?}");
        }
        std::fs::write(&path, table("12")).unwrap();
        assert!(open(&path, Format::Csv, false).is_err());
    }
}
