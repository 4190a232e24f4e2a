use serde_json::{Value as Json, json};
use skytrail_schema::event::{EventBody, RecordPatch, Stream};
use skytrail_schema::id::Database;
use skytrail_schema::time::Timestamp;
use skytrail_schema::value::Value;

use super::*;

fn head(key: &str) -> Arc<Head> {
    let record = Record {
        id: RecordId::new("note", key),
        database: Database::Public,
        owner: None,
        access: None,
        created_at: Timestamp::from_micros(1),
        created_by: None,
        updated_at: Timestamp::from_micros(1),
        updated_by: None,
        fields: [("kept".to_owned(), Value::Bool(true))]
            .into_iter()
            .collect(),
    };
    Arc::new(Head {
        version: 1,
        position: 1,
        record,
    })
}

fn draft_of(head: &Arc<Head>) -> Result<Draft, ItemError> {
    Ok(Draft {
        record: head.record.clone(),
        original: Some(Arc::clone(head)),
        provenance: Vec::new(),
        left_out: Default::default(),
    })
}

fn changed(head: &Head, position: u64, field: &str) -> Event {
    Event {
        position,
        stream: Stream::Record(head.record.id.clone()),
        version: u32::try_from(position).unwrap(),
        body: EventBody::RecordChanged(RecordPatch {
            set: [(field.to_owned(), json!(position))].into(),
            ..RecordPatch::default()
        }),
        provenance: Vec::new(),
        payload_hash: [0; 32],
    }
}

#[test]
fn all_slots_of_a_record_have_one_head_with_what_each_of_them_changed() {
    let (often, once, untouched) = (head("often"), head("once"), head("untouched"));
    let refused = failed(&head("refused").record.id, ApiError::unexpected("refused"));
    let drafts = vec![
        draft_of(&often),
        draft_of(&once),
        Err(refused.clone()),
        draft_of(&often),
        draft_of(&untouched),
        draft_of(&often),
    ];
    let events = [
        changed(&often, 2, "a"),
        changed(&once, 3, "b"),
        changed(&often, 4, "c"),
        changed(&often, 5, "a"),
    ];
    let stored = [&often, &once, &untouched].map(|head| (head.record.id.clone(), Arc::clone(head)));
    let stored = Heads {
        position: 1,
        by_id: stored.into(),
    };
    let results = results_of(drafts, &stored, events.iter());
    assert_eq!(results[2], Err(refused));
    let heads: Vec<_> = results.iter().flatten().collect();
    let fields = |head: &Head| {
        let fields = head.record.fields.iter();
        let wire = fields.map(|(name, value)| (name.clone(), value.to_wire()));
        (head.position, Json::Object(wire.collect()))
    };
    let [first, single, second, same, third] = heads[..] else {
        panic!("{results:?}");
    };
    let expected = (5, json!({"kept": true, "a": 5, "c": 4}));
    assert_eq!(fields(first), expected);
    assert_eq!(fields(single), (3, json!({"kept": true, "b": 3})));
    assert_eq!(fields(same), (1, json!({"kept": true})));
    // It was built once, however many slots there are.
    assert!(Arc::ptr_eq(first, second) && Arc::ptr_eq(first, third));
}

#[test]
fn a_record_that_the_events_do_not_make_is_told_as_lost() {
    let mut draft = draft_of(&head("new"));
    if let Ok(draft) = &mut draft {
        draft.original = None;
    }
    let results = results_of(vec![draft], &Heads::default(), [].iter());
    let lost = results[0].as_ref().unwrap_err();
    assert_eq!(lost.error.code, Code::UnexpectedError);
    assert!(lost.error.message.ends_with("note/new"));
}
