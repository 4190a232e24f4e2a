//! Which part of the log is requested, read from a body or a query.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use skytrail_actors::events::{EventReader, Follower};
use skytrail_actors::log::{Timeline, TimelinePosition};
use skytrail_actors::record::past::Moment;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{EventFilter, Kinds, Stream};
use skytrail_schema::id::{TypeName, UserId};
use skytrail_schema::time::Timestamp;

use crate::action::{audit, request};
use crate::services::Services;

/// Members that hold lists; in a query, commas separate their items.
const LISTS: [&str; 4] = ["record_types", "kinds", "keys", "origins"];

/// Members that hold positions; some of them can also hold a time.
const POSITIONS: [&str; 3] = ["from", "since", "until"];

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At this position.
    From(u64),
    /// At the first event committed at this time or later.
    Time(Timestamp),
}

impl Start {
    /// Returns the first position for reading forwards.
    pub(crate) async fn first(self, reader: &EventReader) -> Result<u64, ApiError> {
        match self {
            Self::From(position) => Ok(position),
            Self::Time(time) => Ok(reader.position_before(time).await? + 1),
        }
    }

    /// Returns the first position for reading backwards; for a time, the last one committed before
    /// it.
    pub(crate) async fn last_before(self, reader: &EventReader) -> Result<u64, ApiError> {
        match self {
            Self::From(position) => Ok(position),
            Self::Time(time) => reader.position_before(time).await,
        }
    }
}

/// Reads where to begin.
///
/// # Errors
/// 107, 108: a member is invalid, or both are given.
pub(crate) fn start(body: &Map<String, Json>) -> Result<Option<Start>, ApiError> {
    let from = request::whole_number(body, "from")?;
    let time = request::time(body, "time")?;
    match (from, time) {
        (Some(_), Some(_)) => {
            let message = "expected either from or time";
            Err(ApiError::invalid_argument(message, &["from", "time"]))
        }
        (Some(0), _) => {
            let message = "from should be a position, 1 or more";
            Err(ApiError::invalid_argument(message, &["from"]))
        }
        (Some(from), None) => Ok(Some(Start::From(from))),
        (None, Some(time)) => Ok(Some(Start::Time(time))),
        (None, None) => Ok(None),
    }
}

/// Reads the range of positions that contains everything wanted.
///
/// # Errors
/// 107, 108: neither a position nor a time; the log cannot be read.
pub(crate) async fn range(
    reader: &EventReader,
    body: &Map<String, Json>,
) -> Result<RangeInclusive<u64>, ApiError> {
    let first = match request::moment(body, "since")? {
        Some(Moment::Position(position)) => position,
        Some(Moment::Time(time)) => reader.position_before(time).await? + 1,
        None => 1,
    };
    let last = match request::moment(body, "until")? {
        Some(Moment::Position(position)) => position,
        Some(Moment::Time(time)) => reader.position_at(time).await?,
        None => u64::MAX,
    };
    Ok(first..=last)
}

/// Reads which events are wanted. The user is given by id or by what they sign in with, as in
/// [`audit::user`].
///
/// # Errors
/// 107, 108: a member has the wrong type, or names something unknown; the store cannot be read.
pub(crate) async fn filter(
    services: &Services,
    body: &Map<String, Json>,
) -> Result<EventFilter, ApiError> {
    let mut filter = filter_as_written(body)?;
    if let Some(user) = &filter.user {
        filter.user = Some(audit::user(services, user.as_str()).await?);
    }
    Ok(filter)
}

/// As [`filter`], with the user as the body has it, and without the store.
///
/// # Errors
/// 107, 108: as in [`filter`].
pub(crate) fn filter_as_written(body: &Map<String, Json>) -> Result<EventFilter, ApiError> {
    let types = request::texts(body, "record_types")?.unwrap_or_default();
    let kinds = request::texts(body, "kinds")?.unwrap_or_default();
    let kinds = Kinds::parse(&kinds).map_err(|name| {
        let message = format!("{name:?} is not a kind of event, such as record.created or record");
        ApiError::invalid_argument(message, &["kinds"])
    })?;
    let request_id = request::text(body, "request_id")?.map(|text| {
        let unknown = || {
            let message = format!("{text:?} is not a request's id");
            ApiError::invalid_argument(message, &["request_id"])
        };
        text.parse().map_err(|_| unknown())
    });
    Ok(EventFilter {
        stream: stream(body)?,
        record_types: types.into_iter().map(TypeName::from).collect(),
        kinds,
        user: request::text(body, "user")?.map(UserId::from),
        keys: words(body, "keys", "none, client or master")?,
        origins: words(body, "origins", "api, plugin, system, cli, import or sql")?,
        plugin: request::text(body, "plugin")?.map(str::to_owned),
        request_id: request_id.transpose()?,
    })
}

/// Reads the one stream that is wanted, given by its name or as a record's id.
fn stream(body: &Map<String, Json>) -> Result<Option<Stream>, ApiError> {
    let stream = request::text(body, "stream")?;
    let record = request::text(body, "record")?;
    match (stream, record) {
        (Some(_), Some(_)) => {
            let message = "expected either stream or record";
            Err(ApiError::invalid_argument(message, &["stream", "record"]))
        }
        (Some(text), None) => Stream::parse(text).map(Some).ok_or_else(|| {
            let message =
                format!("{text:?} is not a stream, such as record/note/1, type/note, user/<id>");
            ApiError::invalid_argument(message, &["stream"])
        }),
        (None, Some(id)) => Ok(Some(Stream::Record(request::record_id(id, "record")?))),
        (None, None) => Ok(None),
    }
}

/// Reads a list of words from a fixed set.
fn words<T: DeserializeOwned + Ord>(
    body: &Map<String, Json>,
    name: &str,
    choices: &str,
) -> Result<BTreeSet<T>, ApiError> {
    let words = request::texts(body, name)?.unwrap_or_default().into_iter();
    let word = |word: String| {
        let message = format!("{word:?} is not one of {choices}");
        serde_json::from_value(Json::from(word))
            .map_err(|_| ApiError::invalid_argument(message, &[name]))
    };
    words.map(word).collect()
}

/// Starts to follow the events that a body asks for, from now on if it gives no start.
///
/// # Errors
/// As [`filter`] and [`start`]; 108 for a position past the log's end, or on another timeline.
pub(crate) async fn follower(
    services: &Services,
    body: &Map<String, Json>,
) -> Result<Follower, ApiError> {
    let reader = &services.events;
    let position = start_after(reader, body).await?;
    let filter = filter(services, body).await?;
    Ok(Follower::new(Arc::clone(reader), filter, position))
}

/// Returns the position after which a body wants to begin, or the log's end if it gives none.
///
/// # Errors
/// As [`start`]; 108 for a position past the log's end, or on another timeline.
pub(crate) async fn start_after(
    reader: &EventReader,
    body: &Map<String, Json>,
) -> Result<u64, ApiError> {
    match start(body)? {
        Some(start) => {
            let after = TimelinePosition {
                position: start.first(reader).await?.saturating_sub(1),
                timeline: request::timeline(body)?,
            };
            within(reader, after)
        }
        None => Ok(reader.head()),
    }
}

/// Fails if a body names the timeline that its positions belong to, and it is not the log's.
///
/// # Errors
/// 107, 108: it is another one, or not a timeline.
pub(crate) fn check_timeline(
    reader: &EventReader,
    body: &Map<String, Json>,
) -> Result<(), ApiError> {
    expect_timeline(reader, request::timeline(body)?)
}

fn expect_timeline(reader: &EventReader, named: Option<Timeline>) -> Result<(), ApiError> {
    if named.is_none_or(|named| named == reader.timeline()) {
        return Ok(());
    }
    let message = "the log was restored to an earlier state and has another timeline now";
    Err(ApiError::invalid_argument(message, &["timeline"]))
}

fn within(reader: &EventReader, after: TimelinePosition) -> Result<u64, ApiError> {
    expect_timeline(reader, after.timeline)?;
    let head = reader.head();
    if after.position > head {
        let message = format!("the log ends at {head}");
        return Err(ApiError::invalid_argument(message, &["from"]));
    }
    Ok(after.position)
}

/// As [`follower`], but starts after a known position.
///
/// # Errors
/// As [`follower`].
pub(crate) async fn follower_after(
    services: &Services,
    body: &Map<String, Json>,
    after: TimelinePosition,
) -> Result<Follower, ApiError> {
    let reader = &services.events;
    let position = within(reader, after)?;
    let filter = filter(services, body).await?;
    Ok(Follower::new(Arc::clone(reader), filter, position))
}

/// Builds a body from a query. Numbers stay strings where a string is expected.
pub(crate) fn body_of_query(query: &str) -> Map<String, Json> {
    let pairs = actix_web::web::Query::<Vec<(String, String)>>::from_query(query);
    let pairs = pairs.map(actix_web::web::Query::into_inner);
    let member = |(name, value): (String, String)| {
        let value = if LISTS.contains(&name.as_str()) {
            let items = value.split(',').filter(|item| !item.is_empty());
            items.map(Json::from).collect()
        } else if POSITIONS.contains(&name.as_str()) {
            value
                .parse::<u64>()
                .map_or_else(|_| Json::from(value), Json::from)
        } else {
            Json::from(value)
        };
        (name, value)
    };
    let mut body = Map::new();
    for (name, value) in pairs.unwrap_or_default().into_iter().map(member) {
        repeat(body.entry(name).or_insert(Json::Null), value);
    }
    body
}

/// Adds a parameter to an earlier one of its name. Lists are joined; anything else becomes a list,
/// which its reader refuses.
fn repeat(earlier: &mut Json, value: Json) {
    match (&mut *earlier, value) {
        (Json::Null, value) => *earlier = value,
        (Json::Array(items), Json::Array(more)) => items.extend(more),
        (Json::Array(items), value) => items.push(value),
        (_, value) => *earlier = Json::Array(vec![earlier.take(), value]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_query_says_what_a_body_says() {
        let query = "record_types=note,task&kinds=record&user=7&from=12&stream=record%2Fnote%2F1\
            &keys=client&since=3&until=2026-01-01T00:00:00Z";
        let body = json!({"record_types": ["note", "task"], "kinds": ["record"], "user": "7",
            "from": 12, "stream": "record/note/1", "keys": ["client"], "since": 3,
            "until": "2026-01-01T00:00:00Z"});
        let read = body_of_query(query);
        assert_eq!(Json::Object(read.clone()), body);
        assert_eq!(start(&read), Ok(Some(Start::From(12))));
        let filter = filter_as_written(&read).unwrap();
        assert_eq!(filter.record_types.len(), 2);
        assert_eq!(filter.user, Some(UserId::from("7")));
    }

    #[test]
    fn what_names_nothing_is_refused_by_name() {
        let refused = |body: Json| {
            let body = body.as_object().unwrap();
            let refused = filter_as_written(body).err().or_else(|| start(body).err());
            refused.unwrap().message
        };
        assert!(refused(json!({"stream": "note/1"})).contains("\"note/1\" is not a stream"));
        assert!(refused(json!({"kinds": ["record", "x"]})).contains("\"x\" is not a kind"));
        assert!(
            refused(json!({"keys": ["clients"]}))
                .contains("\"clients\" is not one of none, client")
        );
        let of_origins = refused(json!({"origins": ["x"]}));
        assert!(of_origins.contains("\"x\" is not one of api"));
        for name in ["api", "plugin", "system", "cli", "import", "sql"] {
            let body = json!({"origins": [name]});
            assert!(filter_as_written(body.as_object().unwrap()).is_ok());
            assert!(of_origins.contains(name), "{of_origins}");
        }
        assert!(refused(json!({"request_id": "1"})).contains("\"1\" is not a request"));
        assert!(refused(json!({"record": "note"})).contains("_id"));
        let both = json!({"record": "note/1", "stream": "type/note"});
        assert!(refused(both).contains("either"));
        assert!(refused(json!({"from": 0})).contains("from"));
        assert!(refused(json!({"time": "now"})).contains("time"));
        let both = json!({"from": 1, "time": "2024-06-11T09:30:00Z"});
        assert!(refused(both).contains("either"));
    }
}
