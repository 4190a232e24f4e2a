//! How a user sees records: roles, field rules, the types' fields.

use std::sync::Arc;

use skytrail_schema::caller::{Caller, KeyKind};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Event, EventBody, Stream};
use skytrail_schema::field_access::FieldRules;
use skytrail_schema::id::{RecordId, TypeName, UserId};
use skytrail_schema::predicate::column::Types as _;
use skytrail_schema::predicate::evaluate::Nothing;
use skytrail_schema::predicate::{Condition, Context};
use skytrail_schema::record::Record;
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::{FieldType, TypeDefinition};

use super::query::LiveQuery;
use crate::accounts::admission::{bad_token, refuse_unverified};
use crate::record::env::RecordEnv;
use crate::record::read::{FoundView, involved, may_find};
use crate::record::write_model::WriteModel;
use crate::store::Viewer;

/// Who listens. Those with the same user see the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Audience {
    /// Whether access control does not apply.
    pub is_master: bool,
    /// The user, if any.
    pub user: Option<UserId>,
}

/// The token that a listener came with.
#[derive(Clone, Debug, Default)]
pub struct Credential {
    /// The token, if one was shown.
    pub token: Option<Arc<str>>,
    /// As of when the token's user was judged, if that is known.
    pub as_of: Option<Timestamp>,
}

/// See the module's overview.
#[derive(Debug)]
pub(super) struct Lens {
    /// The lens is true at this position, and until something [`disturbs`] it.
    pub(super) position: u64,
    /// Older tokens of the user are refused.
    pub(super) valid_since: Option<Timestamp>,
    /// Whether some rule may hide fields from the user.
    pub(super) may_hide: bool,
    caller: Caller,
    rules: Arc<FieldRules>,
    /// The queried type, then those that its references name.
    types: Vec<Arc<TypeDefinition>>,
    /// `None` while the type is not created: then there are no records.
    condition: Option<Condition>,
}

impl Lens {
    /// Takes the lens as it is at present. The store has applied everything that it rests on.
    ///
    /// # Errors
    /// The user may not act; the query makes no sense for the type, or searches by what the user
    /// may not search; the store failed.
    pub(super) async fn take(
        env: &RecordEnv,
        query: &LiveQuery,
        audience: &Audience,
    ) -> Result<Self, ApiError> {
        let name = &query.query.record_type;
        let look = |model: &WriteModel| (model.get_field_rules(), involved(env, name));
        let (position, (rules, types)) = env.model.at_one_position(look);
        env.applied.wait_for(position).await?;
        let mut caller = Caller {
            key: if audience.is_master {
                KeyKind::Master
            } else {
                KeyKind::Client
            },
            user: audience.user.clone(),
            ..Caller::default()
        };
        let mut valid_since = None;
        if let Some(user) = &audience.user {
            let loaded = env.load_user(user).await?;
            // Memory may have a later state of the user. A result by that state must not carry an
            // earlier position: a listener that comes back from there would miss the change.
            env.applied.wait_for(env.model.position()).await?;
            match loaded {
                Some(state) => {
                    state.check_enabled(env.clock.now())?;
                    valid_since = state.token_valid_since;
                    caller.roles = state.roles;
                }
                None if audience.is_master => {}
                None => return Err(bad_token()),
            }
            if env.model.requires_verification() && !audience.is_master {
                let (_, head) = env.load_head(&RecordId::user(user)).await?;
                refuse_unverified(head.as_ref().map(|head| &head.record))?;
            }
        }
        rules.check_query(&query.query, &caller, types.as_slice())?;
        let definition = types.as_slice().definition(name);
        let definition = definition.filter(|definition| definition.is_created);
        let bound = definition.map(|it| query.query.bind(it, types.as_slice()));
        let condition = bound.transpose()?.map(|bound| {
            let anything = Condition::Constant(Some(true));
            bound.condition.unwrap_or(anything)
        });
        Ok(Self {
            position,
            valid_since,
            may_hide: rules.may_hide(&caller, name),
            caller,
            rules,
            types,
            condition,
        })
    }

    /// Whether two lenses show the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let versions = |lens: &Self| -> Vec<_> {
            let all = lens.types.iter();
            all.map(|it| (it.name.clone(), it.version)).collect()
        };
        self.caller == other.caller
            && self.rules == other.rules
            && versions(self) == versions(other)
    }

    /// Returns the look at what the query finds.
    pub(super) fn look<'a>(&'a self, query: &'a LiveQuery) -> FoundView<'a> {
        FoundView {
            query: &query.query,
            viewer: Viewer {
                scope: &query.scope,
                caller: &self.caller,
            },
            rules: &self.rules,
            today: None,
        }
    }

    /// Whether the user may find a record, whatever the query asks for.
    pub(super) fn may_find(&self, query: &LiveQuery, record: &Record) -> bool {
        may_find(&self.look(query).viewer, record)
    }

    /// Whether the query finds a record, provided that it does not look beyond it.
    pub(super) fn finds(&self, query: &LiveQuery, record: &Record) -> bool {
        let context = Context {
            user: self.caller.user.as_ref(),
            lookups: &Nothing,
        };
        let condition = self.condition.as_ref();
        self.may_find(query, record)
            && condition.is_some_and(|it| it.evaluate(record, context) == Some(true))
    }

    /// Returns about how much [`Self::finds`] looks at; if that is more than `most`, some number
    /// above it.
    pub(super) fn cost(&self, query: &LiveQuery, record: &Record, most: u64) -> u64 {
        let context = Context {
            user: self.caller.user.as_ref(),
            lookups: &Nothing,
        };
        match &self.condition {
            Some(condition) if self.may_find(query, record) => {
                condition.cost(record, context, most)
            }
            _ => 1,
        }
    }

    /// Returns the version of the queried type that last changed its records.
    pub(super) fn reshaped(&self) -> u32 {
        self.types
            .first()
            .map_or(0, |definition| definition.reshaped)
    }

    /// Whether a change of one of its types makes it untrue, or changes records without an event.
    fn depends_on(&self, change: &EventBody) -> bool {
        match change {
            EventBody::TypeExtended(extension) => {
                let mut fields = extension.fields.values();
                self.condition.is_none() || fields.any(|it| matches!(it, FieldType::Sequence))
            }
            EventBody::TypeDefaultAccessSet(_)
            | EventBody::TypeCreationRolesSet(_)
            | EventBody::TypeIntervalsSet(_)
            | EventBody::TypeRetentionSet(_)
            | EventBody::TypePersonalSet(_) => false,
            _ => true,
        }
    }

    /// Returns the types whose rows decide what the query finds.
    pub(super) fn names(&self, query: &LiveQuery) -> Vec<TypeName> {
        let num_types = if query.looks_beyond { usize::MAX } else { 1 };
        let types = self.types.iter().take(num_types);
        types.map(|definition| definition.name.clone()).collect()
    }

    fn involves(&self, name: &TypeName) -> bool {
        self.types.iter().any(|definition| definition.name == *name)
    }
}

/// Whether an event changes how a view's user sees; `lens` is how the user has seen so far.
pub(super) fn disturbs(
    event: &Event,
    (query, audience): (&LiveQuery, &Audience),
    lens: Option<&Lens>,
) -> bool {
    match (&event.stream, &event.body) {
        (Stream::Type(name), body) => match lens {
            None => *name == query.query.record_type,
            Some(lens) => lens.involves(name) && lens.depends_on(body),
        },
        (Stream::FieldAccess, _) => !audience.is_master,
        (Stream::User(user), EventBody::UserChanged(patch)) => {
            let has_roles = !patch.roles_added.is_empty() || !patch.roles_removed.is_empty();
            has_roles && audience.user.as_ref() == Some(user)
        }
        // An import can bring an erased user back with other roles.
        (Stream::User(user), EventBody::UserCreated(_) | EventBody::UserRemoved(_)) => {
            audience.user.as_ref() == Some(user)
        }
        _ => false,
    }
}

/// Whether an event may change the result of a query that looks beyond its own records.
pub(super) fn moves(
    event: &Event,
    (query, audience): (&LiveQuery, &Audience),
    lens: Option<&Lens>,
) -> bool {
    match (&event.stream, &event.body) {
        (Stream::Record(id), _) => lens.is_none_or(|lens| {
            let is_user = id.record_type.is_user() && !query.query.include.is_empty();
            is_user || lens.involves(&id.record_type)
        }),
        (
            Stream::Relation(_, from),
            EventBody::RelationAdded(target) | EventBody::RelationRemoved(target),
        ) => {
            let user = audience.user.as_ref();
            user == Some(from) || user == Some(&target.to)
        }
        _ => false,
    }
}
