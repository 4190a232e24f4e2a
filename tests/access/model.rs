//! The rules of access, written only from v1's specification: a model without a log, a store or a
//! cache, and without a line of the server's code. The server must behave as it says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};

use super::devices::Device;

/// A refusal of a whole request or of one item: status, code, and the message where the
/// specification gives one.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal(pub u16, pub i64, pub &'static str);

pub const NO_KEY: Refusal = Refusal(401, 101, "Both api key and access token are empty");
pub const LOGIN: Refusal = Refusal(
    401,
    101,
    "Authentication is required for this action, please login.",
);
pub const DISABLED: Refusal = Refusal(403, 127, "user is disabled");
pub const NO_ADMIN: Refusal = Refusal(401, 102, "no permission to perform this action");
pub const NO_USER: Refusal = Refusal(401, 101, "User is required for this action, please login.");
const NOT_YOURS: Refusal = Refusal(403, 102, "");
const NO_UNION: Refusal = Refusal(401, 101, "Master key is needed for union DB access");
const NO_PRIVATE: Refusal = Refusal(401, 101, "Authentication is needed for private DB access");
const BAD_DATABASE: Refusal = Refusal(400, 108, "invalid database ID");
pub const READ_ONLY: Refusal =
    Refusal(501, 111, "modifying the selected database is not supported");
pub const NO_ACCESS: Refusal = Refusal(403, 102, "no permission to perform operation");
pub const NO_CREATION: Refusal = Refusal(403, 102, "no permission to create");
pub const NOT_FOUND: Refusal = Refusal(404, 110, "record not found");
pub const USER_STAYS: Refusal = Refusal(403, 102, "cannot delete user record");
pub const TAKEN: Refusal = Refusal(409, 109, "violate unique constraint");
pub const REFERRED: Refusal = Refusal(409, 113, "");
pub const NO_TARGET: Refusal = Refusal(500, 10000, "");
pub const NO_FIELDS: Refusal = Refusal(
    403,
    123,
    "Unable to save to some record fields because of Field ACL denied update.",
);

/// The credentials of a request.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    pub client_key: bool,
    pub master_key: bool,
    pub token_of: Option<String>,
    pub acts_as: Option<String>,
    /// Whether it is the master key, with only the rights of the user of `token_of`.
    pub has_only_rights: bool,
}

/// The checks before an action, by what they require.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gate {
    /// A user is optional.
    Maybe,
    /// A user.
    User,
    /// An administrator.
    Admin,
}

/// The caller after the checks.
#[derive(Clone, Debug, Default)]
pub struct Viewer {
    pub master: bool,
    pub user: Option<String>,
    pub roles: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Scope {
    Public,
    Private(String),
    Union,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub relation: Option<String>,
    pub user: Option<String>,
    pub role: Option<String>,
    pub public: bool,
    pub write: bool,
}

#[derive(Clone, Debug, Default)]
pub struct User {
    pub disabled: bool,
    pub roles: BTreeSet<String>,
}

/// A record; `database` is empty for the public one.
#[derive(Clone, Debug)]
pub struct Rec {
    pub kind: String,
    pub key: String,
    pub database: String,
    pub owner: String,
    pub created_by: String,
    pub updated_by: String,
    pub access: Option<Vec<Entry>>,
    pub fields: BTreeMap<String, Json>,
}

#[derive(Clone, Debug, Default)]
pub struct Kind {
    pub creation: BTreeSet<String>,
    pub default: Option<Vec<Entry>>,
}

/// A field access rule; `who` is in wire form.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub kind: String,
    pub field: String,
    pub who: String,
    pub writable: bool,
    pub readable: bool,
    pub comparable: bool,
    pub discoverable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Use {
    Read,
    Write,
    Compare,
    Discover,
}

/// Records by type and key.
pub type Records = BTreeMap<(String, String), Rec>;

/// Everything that access decisions depend on.
#[derive(Clone, Debug)]
pub struct Model {
    pub users: BTreeMap<String, User>,
    pub admin_roles: BTreeSet<String>,
    pub default_roles: BTreeSet<String>,
    pub kinds: BTreeMap<String, Kind>,
    pub rules: Vec<Rule>,
    pub records: Records,
    pub relations: BTreeSet<(String, String, String)>,
    pub devices: Vec<Device>,
}

impl Default for Model {
    /// A new database: one administrators' role, and the rules for user names and e-mail addresses.
    fn default() -> Self {
        let installed = |field: &str, who: &str| Rule {
            kind: "user".into(),
            field: field.into(),
            who: who.into(),
            writable: who == "_owner",
            readable: true,
            comparable: true,
            discoverable: true,
        };
        let of = |field| ["_owner", "_any_user"].map(|who| installed(field, who));
        Self {
            users: BTreeMap::new(),
            admin_roles: ["Admin".to_owned()].into(),
            default_roles: BTreeSet::new(),
            kinds: BTreeMap::new(),
            rules: ["username", "email"].into_iter().flat_map(of).collect(),
            records: BTreeMap::new(),
            relations: BTreeSet::new(),
            devices: Vec::new(),
        }
    }
}

impl Model {
    /// Runs the checks of an action that takes a key or a token.
    pub fn enter(&mut self, shown: &Shown, gate: Gate) -> Result<Viewer, Refusal> {
        if !shown.client_key && !shown.master_key && shown.token_of.is_none() {
            return Err(NO_KEY);
        }
        let mut viewer = Viewer {
            master: shown.master_key,
            user: shown.token_of.clone(),
            roles: BTreeSet::new(),
        };
        if viewer.user.is_none() && viewer.master {
            let user = shown.acts_as.clone().unwrap_or_else(|| "_god".into());
            self.users.entry(user.clone()).or_default();
            viewer.user = Some(user);
        }
        if let Some(id) = viewer.user.clone() {
            let user = &self.users[&id];
            match (user.disabled, gate) {
                (true, Gate::User) => return Err(DISABLED),
                (true, _) if shown.has_only_rights => return Err(DISABLED),
                (true, _) => viewer.user = None,
                (false, _) => viewer.roles.clone_from(&user.roles),
            }
        }
        match gate {
            Gate::User if viewer.user.is_none() => Err(LOGIN),
            Gate::Admin if !viewer.master && viewer.user.is_none() => Err(NO_USER),
            Gate::Admin if !viewer.master && viewer.roles.is_disjoint(&self.admin_roles) => {
                Err(NO_ADMIN)
            }
            _ => Ok(viewer),
        }
    }

    pub fn scope(&self, viewer: &Viewer, database: &str) -> Result<Scope, Refusal> {
        let mine = viewer.user.as_deref() == Some(database);
        match (database, &viewer.user) {
            ("" | "_public", _) => Ok(Scope::Public),
            ("_private", Some(user)) => Ok(Scope::Private(user.clone())),
            ("_private", None) => Err(NO_PRIVATE),
            ("_union", _) if viewer.master => Ok(Scope::Union),
            ("_union", _) => Err(NO_UNION),
            (other, _) if other.starts_with('_') => Err(BAD_DATABASE),
            (other, _) if mine || viewer.master => Ok(Scope::Private(other.into())),
            _ => Err(NOT_YOURS),
        }
    }

    /// Returns whether the access list, or ownership, lets the caller read or write.
    pub fn may(&self, viewer: &Viewer, write: bool, record: &Rec) -> bool {
        let named = |entry: &Entry| {
            entry.public
                || (entry.user.is_some() && entry.user == viewer.user)
                || entry
                    .role
                    .as_ref()
                    .is_some_and(|role| viewer.roles.contains(role))
        };
        let granted = |list: &Vec<Entry>| list.iter().any(|it| (it.write || !write) && named(it));
        viewer.master
            || viewer.user.as_ref() == Some(&record.owner)
            || record.access.as_ref().is_none_or(granted)
    }

    /// Returns whether a query in the scope may show the record.
    pub fn in_sight(&self, viewer: &Viewer, scope: &Scope, record: &Rec) -> bool {
        within(scope, record) && (*scope != Scope::Public || self.may(viewer, false, record))
    }

    /// Returns whether the rules permit this use of a field to the caller.
    pub fn field(
        &self,
        viewer: &Viewer,
        field_use: Use,
        at: (&str, &str),
        record: Option<&Rec>,
    ) -> bool {
        let (kind, field) = at;
        if viewer.master || field.starts_with('_') {
            return true;
        }
        let groups = [(kind, field), (kind, "*"), ("*", field), ("*", "*")];
        let of = |(kind, field): (&str, &str)| {
            let fits = |rule: &&Rule| rule.kind == kind && rule.field == field;
            self.rules.iter().filter(fits).collect::<Vec<_>>()
        };
        let Some(group) = groups.into_iter().map(of).find(|group| !group.is_empty()) else {
            return true;
        };
        let mut group = group;
        group.sort_by_key(|rule| precedence(&rule.who));
        let decisive = group
            .into_iter()
            .find(|rule| is_about(&rule.who, viewer, record));
        decisive.is_some_and(|rule| match field_use {
            Use::Read => rule.readable,
            Use::Write => rule.writable,
            Use::Compare => rule.comparable,
            Use::Discover => rule.discoverable || rule.comparable,
        })
    }

    /// Returns the record as the caller is shown it.
    pub fn shown(&self, viewer: &Viewer, record: &Rec) -> Map<String, Json> {
        let readable =
            |field: &str| self.field(viewer, Use::Read, (&record.kind, field), Some(record));
        let mut wire = record.head();
        let fields = record.fields.iter().filter(|(name, _)| readable(name));
        wire.extend(fields.map(|(name, value)| (name.clone(), value.clone())));
        wire
    }

    pub fn record(&self, kind: &str, key: &str) -> Option<&Rec> {
        self.records.get(&(kind.to_owned(), key.to_owned()))
    }

    pub fn kind(&self, name: &str) -> Kind {
        self.kinds.get(name).cloned().unwrap_or_default()
    }
}

/// Returns whether the record is in the scope.
pub fn within(scope: &Scope, record: &Rec) -> bool {
    match scope {
        Scope::Public => record.database.is_empty(),
        Scope::Private(user) => record.database == *user,
        Scope::Union => true,
    }
}

fn precedence(who: &str) -> (usize, String) {
    let (kind, argument) = who.split_once(':').unwrap_or((who, ""));
    let order = [
        "_owner",
        "_user_id",
        "_field",
        "_role",
        "_any_user",
        "_public",
    ];
    let place = order.iter().position(|known| *known == kind).unwrap();
    (place, argument.to_owned())
}

fn is_about(who: &str, viewer: &Viewer, record: Option<&Rec>) -> bool {
    let (kind, argument) = who.split_once(':').unwrap_or((who, ""));
    let user = viewer.user.as_deref();
    match kind {
        "_owner" => record.is_some_and(|record| user == Some(&record.owner)),
        "_user_id" => user == Some(argument),
        "_field" => user
            .zip(record)
            .is_some_and(|(user, record)| record.names(argument, user)),
        "_role" => viewer.roles.contains(argument),
        "_any_user" => user.is_some(),
        _ => true,
    }
}

impl Rec {
    /// Returns whether a field is the user's id or a list that contains it.
    fn names(&self, field: &str, user: &str) -> bool {
        match field {
            "_created_by" => self.created_by == user,
            "_updated_by" => self.updated_by == user,
            "_owner_id" => self.owner == user,
            field => match self.fields.get(field) {
                Some(Json::String(text)) => text == user,
                Some(Json::Array(items)) => items.iter().any(|item| item == user),
                _ => false,
            },
        }
    }

    /// Returns the members shown to everyone who sees the record at all, without the times.
    pub fn head(&self) -> Map<String, Json> {
        let access = self.access.as_ref();
        let access = access.map(|list| list.iter().map(Entry::wire).collect::<Vec<_>>());
        let head = json!({
            "_id": format!("{}/{}", self.kind, self.key),
            "_type": "record",
            "_access": access,
            "_ownerID": self.owner,
            "_created_by": self.created_by,
            "_updated_by": self.updated_by,
        });
        head.as_object().unwrap().clone()
    }
}

impl Entry {
    pub fn wire(&self) -> Json {
        let mut wire = Map::new();
        wire.insert(
            "level".into(),
            if self.write { "write" } else { "read" }.into(),
        );
        for (name, value) in [
            ("relation", &self.relation),
            ("user_id", &self.user),
            ("role", &self.role),
        ] {
            if let Some(value) = value {
                wire.insert(name.into(), value.clone().into());
            }
        }
        if self.public || wire.len() == 1 {
            wire.insert("public".into(), self.public.into());
        }
        wire.into()
    }
}
