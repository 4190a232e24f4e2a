//! What of the log somebody asks for, out of a body or a query.

use std::sync::Arc;

use serde_json::{Map, Value as Json};
use skytrail_actors::events::{EventReader, Follower};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{EventFilter, Kinds, Stream};
use skytrail_schema::id::{TypeName, UserId};
use skytrail_schema::time::Timestamp;

use crate::action::request;

/// Members that hold lists; in a query their items are separated by commas.
const LISTS: [&str; 2] = ["record_types", "kinds"];

/// Where somebody begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With this position.
    From(u64),
    /// With what was committed at this time or later.
    Time(Timestamp),
}

impl Start {
    /// Returns the first position for who reads forwards.
    pub(crate) async fn first(self, reader: &EventReader) -> Result<u64, ApiError> {
        match self {
            Self::From(position) => Ok(position),
            Self::Time(time) => Ok(reader.position_before(time).await? + 1),
        }
    }

    /// Returns the first position for who reads backwards: with a time, what was committed before.
    pub(crate) async fn last_before(self, reader: &EventReader) -> Result<u64, ApiError> {
        match self {
            Self::From(position) => Ok(position),
            Self::Time(time) => reader.position_before(time).await,
        }
    }
}

/// Reads where somebody begins.
///
/// # Errors
/// 107, 108: not such a member, or both.
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

/// Reads which events are wanted.
///
/// # Errors
/// 107, 108: a member of another type, or what names nothing.
pub(crate) fn filter(body: &Map<String, Json>) -> Result<EventFilter, ApiError> {
    let stream = request::text(body, "stream")?;
    let stream = stream.map(|text| {
        let unknown = || {
            let message =
                format!("{text:?} is no stream, such as record/note/1, type/note, user/<id>");
            ApiError::invalid_argument(message, &["stream"])
        };
        Stream::parse(text).ok_or_else(unknown)
    });
    let types = request::texts(body, "record_types")?.unwrap_or_default();
    let kinds = request::texts(body, "kinds")?.unwrap_or_default();
    let kinds = Kinds::parse(&kinds).map_err(|name| {
        let message = format!("{name:?} is no kind of event, such as record.created or record");
        ApiError::invalid_argument(message, &["kinds"])
    })?;
    Ok(EventFilter {
        stream: stream.transpose()?,
        record_types: types.into_iter().map(TypeName::from).collect(),
        kinds,
        user: request::text(body, "user")?.map(UserId::from),
    })
}

/// Begins to follow what a body asks for, from now on if it does not say where.
///
/// # Errors
/// As [`filter`] and [`start`]; 108 for a place beyond the log's end.
pub(crate) async fn follower(
    reader: &Arc<EventReader>,
    body: &Map<String, Json>,
) -> Result<Follower, ApiError> {
    let position = behind(reader, body).await?;
    follower_behind(reader, body, position)
}

/// Returns the position behind which a body wants to begin, the log's end if it does not say.
///
/// # Errors
/// As [`start`]; 108 for a place beyond the log's end.
pub(crate) async fn behind(
    reader: &EventReader,
    body: &Map<String, Json>,
) -> Result<u64, ApiError> {
    match start(body)? {
        Some(start) => within(reader, start.first(reader).await?.saturating_sub(1)),
        None => Ok(reader.head()),
    }
}

fn within(reader: &EventReader, position: u64) -> Result<u64, ApiError> {
    let head = reader.head();
    if position > head {
        // It was never given, or the log was put back to an earlier state.
        let message = format!("the log ends at {head}");
        return Err(ApiError::invalid_argument(message, &["from"]));
    }
    Ok(position)
}

/// As [`follower`], behind a position that is known.
///
/// # Errors
/// As [`follower`].
pub(crate) fn follower_behind(
    reader: &Arc<EventReader>,
    body: &Map<String, Json>,
    position: u64,
) -> Result<Follower, ApiError> {
    let position = within(reader, position)?;
    Ok(Follower::new(Arc::clone(reader), filter(body)?, position))
}

/// Makes a body of a query. Numbers stay texts where a text is wanted.
pub(crate) fn body_of_query(query: &str) -> Map<String, Json> {
    let pairs = actix_web::web::Query::<Vec<(String, String)>>::from_query(query);
    let pairs = pairs.map(actix_web::web::Query::into_inner);
    let member = |(name, value): (String, String)| {
        let value = if LISTS.contains(&name.as_str()) {
            let items = value.split(',').filter(|item| !item.is_empty());
            items.map(Json::from).collect()
        } else if name == "from" {
            value
                .parse::<u64>()
                .map_or_else(|_| Json::from(value), Json::from)
        } else {
            Json::from(value)
        };
        (name, value)
    };
    pairs.unwrap_or_default().into_iter().map(member).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_query_says_what_a_body_says() {
        let query = "record_types=note,task&kinds=record&user=7&from=12&stream=record%2Fnote%2F1";
        let body = json!({"record_types": ["note", "task"], "kinds": ["record"], "user": "7",
            "from": 12, "stream": "record/note/1"});
        let read = body_of_query(query);
        assert_eq!(Json::Object(read.clone()), body);
        assert_eq!(start(&read), Ok(Some(Start::From(12))));
        let filter = filter(&read).unwrap();
        assert_eq!(filter.record_types.len(), 2);
        assert_eq!(filter.user, Some(UserId::from("7")));
    }

    #[test]
    fn what_names_nothing_is_refused_by_name() {
        let refused = |body: Json| {
            let body = body.as_object().unwrap();
            let refused = filter(body).err().or_else(|| start(body).err());
            refused.unwrap().message
        };
        assert!(refused(json!({"stream": "note/1"})).contains("\"note/1\" is no stream"));
        assert!(refused(json!({"kinds": ["record", "x"]})).contains("\"x\" is no kind"));
        assert!(refused(json!({"from": 0})).contains("from"));
        assert!(refused(json!({"time": "now"})).contains("time"));
        let both = json!({"from": 1, "time": "2024-06-11T09:30:00Z"});
        assert!(refused(both).contains("either"));
    }
}
