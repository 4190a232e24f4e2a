//! A server, the model next to it, and users who call both.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use super::changes::Sent;
use super::devices::Ear;
use super::files::Files;
use super::model::{Entry, Model, Rule, Shown};
use super::ops::{About, Access, Asked, Cond, Db, Grant, Id, Item, RuleOf, USERS, Val, Who};
use super::search::{Pred, Search};
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};

/// A user for whom the master key acts and who never signed up.
const GHOST: &str = "ghost";

pub struct World {
    pub server: TestServer,
    pub model: Model,
    /// Ids and tokens, in the order of the sign-ups.
    pub users: Vec<(String, String)>,
    pub files: Files,
    /// Devices by number, and the socket that receives their notices.
    pub devices: Vec<String>,
    pub ear: Option<Ear>,
    pub agent: ureq::Agent,
}

/// An answer: status and body.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Json,
}

impl World {
    pub fn with(settings: &[(&str, &str)]) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(60)))
            .http_status_as_error(false);
        Self {
            server: TestServer::with(settings),
            model: Model::default(),
            users: Vec::new(),
            files: Files::default(),
            devices: Vec::new(),
            ear: None,
            agent: config.build().into(),
        }
    }

    /// Signs users up without telling the model.
    pub fn sign_up_plainly(&mut self, num_users: usize) {
        for _ in 0..num_users {
            let reply = self.call(Who::Client, "auth:signup", Map::new()).unwrap();
            let text = |name: &str| reply.body["result"][name].as_str().unwrap().to_owned();
            self.users.push((text("user_id"), text("access_token")));
        }
    }

    /// Returns the id of a user by number, modulo the number of users.
    pub fn user(&self, number: usize) -> String {
        if number == USERS || self.users.is_empty() {
            return GHOST.to_owned();
        }
        self.users[number % self.users.len()].0.clone()
    }

    /// Returns what the caller is to the rules. The master key with a user's rights is that user,
    /// but never anonymous.
    pub fn shown(&self, who: Who) -> Shown {
        let client_key = matches!(who, Who::Client | Who::User(_) | Who::RightsOf(_));
        let master_key = matches!(
            who,
            Who::Master | Who::MasterWithToken(_) | Who::MasterAs(_)
        );
        let token_of = match who {
            Who::User(user)
            | Who::Token(user)
            | Who::MasterWithToken(user)
            | Who::RightsOf(user) => Some(self.user(user)),
            _ => None,
        };
        let acts_as = if let Who::MasterAs(user) = who {
            Some(self.user(user))
        } else {
            None
        };
        Shown {
            client_key,
            master_key,
            token_of,
            acts_as,
            has_only_rights: matches!(who, Who::RightsOf(_)),
        }
    }

    /// Calls an action with the caller's credentials.
    pub fn call(
        &self,
        who: Who,
        action: &str,
        mut body: Map<String, Json>,
    ) -> Result<Reply, String> {
        if let Who::RightsOf(user) = who {
            body.insert("api_key".into(), MASTER_KEY.into());
            body.insert("_rights".into(), "user".into());
            body.insert("_user_id".into(), self.user(user).into());
            return self.post(action, &body);
        }
        let shown = self.shown(who);
        if shown.client_key || shown.master_key {
            let key = if shown.master_key {
                MASTER_KEY
            } else {
                API_KEY
            };
            body.insert("api_key".into(), key.into());
        }
        if let Some(user) = &shown.token_of {
            let (_, token) = self.users.iter().find(|(id, _)| id == user).unwrap();
            body.insert("access_token".into(), token.clone().into());
        }
        if let Some(user) = &shown.acts_as {
            body.insert("_user_id".into(), user.clone().into());
        }
        self.post(action, &body)
    }

    fn post(&self, action: &str, body: &Map<String, Json>) -> Result<Reply, String> {
        let url = format!("{}/{}", self.server.base_url, action.replace(':', "/"));
        let sent = serde_json::to_vec(body).unwrap();
        let answer = self.agent.post(&url).send(&sent[..]);
        let mut answer = answer.map_err(|error| format!("no answer: {error}"))?;
        let status = answer.status().as_u16();
        let text = answer
            .body_mut()
            .read_to_string()
            .map_err(|error| error.to_string())?;
        let body = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        Ok(Reply { status, body })
    }

    pub fn database(&self, db: Db) -> String {
        match db {
            Db::Public => "_public".into(),
            Db::Private => "_private".into(),
            Db::Union => "_union".into(),
            Db::Of(user) => self.user(user),
            Db::Unknown => "_elsewhere".into(),
        }
    }

    pub fn id(&self, id: Id) -> (String, String) {
        match id {
            Id::Note(number) => ("note".into(), format!("k{number}")),
            Id::Item(number) => ("item".into(), format!("k{number}")),
            Id::User(number) => ("user".into(), self.user(number)),
        }
    }

    pub fn ids(&self, ids: &[Id]) -> Vec<(String, String)> {
        let mut unique: Vec<(String, String)> = Vec::new();
        for id in ids.iter().map(|id| self.id(*id)) {
            if !unique.contains(&id) {
                unique.push(id);
            }
        }
        unique
    }

    pub fn value(&self, value: &Val) -> Json {
        match value {
            Val::Null => Json::Null,
            Val::Text(text) | Val::Name(text) => json!(text),
            Val::Number(number) => json!(number),
            Val::User(user) => json!(self.user(*user)),
            Val::Users(users) => users.iter().map(|user| self.user(*user)).collect(),
            Val::Item(number) => json!({"$type": "ref", "$id": format!("item/k{number}")}),
            Val::File(file) => self.files.value(*file),
            Val::Place(near) => {
                let degrees = if *near { 0 } else { 10 };
                json!({"$type": "geo", "$lng": degrees, "$lat": degrees})
            }
        }
    }

    /// Returns those of the fields that records of the type have.
    pub fn fields(&self, kind: &str, fields: &[(&'static str, Val)]) -> BTreeMap<String, Json> {
        let known = |field: &str| match kind {
            "user" => ["s", "n", "u", "j", "username"].contains(&field),
            _ => field != "username",
        };
        let fields = fields.iter().filter(|(name, _)| known(name));
        fields
            .map(|(name, value)| ((*name).to_owned(), self.value(value)))
            .collect()
    }

    fn grant(&self, grant: &Grant) -> Json {
        let mut wire = Map::new();
        wire.insert(
            "level".into(),
            if grant.write { "write" } else { "read" }.into(),
        );
        wire.insert("something".into(), "unknown".into());
        if grant.relation {
            wire.insert("relation".into(), "friend".into());
        }
        if let Some(user) = grant.user {
            wire.insert("user_id".into(), self.user(user).into());
        }
        if let Some(role) = grant.role {
            wire.insert("role".into(), role.into());
        }
        if let Some(public) = grant.public {
            wire.insert("public".into(), public.into());
        }
        wire.into()
    }

    pub fn grants(&self, grants: &[Grant]) -> (Json, Vec<Entry>) {
        let entry = |grant: &Grant| Entry {
            relation: grant.relation.then(|| "friend".to_owned()),
            user: grant.user.map(|user| self.user(user)),
            role: grant.role.map(str::to_owned),
            public: grant.public == Some(true),
            write: grant.write,
        };
        let wire = grants.iter().map(|grant| self.grant(grant)).collect();
        (wire, grants.iter().map(entry).collect())
    }

    /// Returns the records of a save, each once and at most one user, as they are sent and as they
    /// count.
    pub fn items(&self, items: &[Item]) -> (Vec<Json>, Vec<Sent>) {
        let (mut wires, mut all): (Vec<Json>, Vec<Sent>) = Default::default();
        for item in items {
            let (kind, key) = self.id(item.id);
            let is_double = |sent: &Sent| sent.kind == kind && (sent.key == key || kind == "user");
            if all.iter().any(is_double) {
                continue;
            }
            let mut wire = Map::new();
            wire.insert("_id".into(), format!("{kind}/{key}").into());
            let mut access = None;
            match &item.access {
                Access::Absent => {}
                Access::Null => drop(wire.insert("_access".into(), Json::Null)),
                Access::List(grants) => {
                    let (list, entries) = self.grants(grants);
                    wire.insert("_access".into(), list);
                    access = Some(entries);
                }
            }
            let fields = self.fields(&kind, &item.fields);
            wire.extend(fields.clone());
            for (name, user) in &item.smuggled {
                let value = match *name {
                    "_created_at" => json!("2001-01-01T00:00:00Z"),
                    "_transient" => json!({"s": "alpha"}),
                    "_acl" => json!([{"user_id": self.user(*user), "level": "write"}]),
                    _ => json!(self.user(*user)),
                };
                wire.insert((*name).to_owned(), value);
            }
            wires.push(wire.into());
            all.push(Sent {
                kind,
                key,
                access,
                fields,
            });
        }
        (wires, all)
    }

    pub fn rules(&self, rules: &[RuleOf]) -> Vec<Rule> {
        let mut all: Vec<Rule> = Vec::new();
        for rule in rules {
            let who = match &rule.about {
                About::Plain(who) => (*who).to_owned(),
                About::User(user) => format!("_user_id:{}", self.user(*user)),
                About::Field(field) => format!("_field:{field}"),
                About::Role(role) => format!("_role:{role}"),
            };
            let [writable, readable, comparable, discoverable] = rule.flags;
            let (kind, field) = (rule.kind.to_owned(), rule.field.to_owned());
            let is_double =
                |other: &Rule| (&other.kind, &other.field, &other.who) == (&kind, &field, &who);
            if !all.iter().any(is_double) {
                all.push(Rule {
                    kind,
                    field,
                    who,
                    writable,
                    readable,
                    comparable,
                    discoverable,
                });
            }
        }
        all
    }

    pub fn search(&self, asked: &Asked) -> Search {
        let texts = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let sort = asked
            .sort
            .iter()
            .map(|(field, down)| ((*field).to_owned(), *down));
        let include: BTreeSet<&str> = asked.include.iter().copied().collect();
        let include = include
            .into_iter()
            .map(|path| (format!("the {path}"), path.to_owned()));
        Search {
            kind: asked.kind.to_owned(),
            predicate: asked.cond.as_ref().map(|cond| self.predicate(cond)),
            sort: sort.collect(),
            include: include.collect(),
            desired: asked.desired.as_deref().map(texts),
            count: asked.count,
            limit: asked.limit,
            offset: asked.offset,
        }
    }

    pub fn predicate(&self, cond: &Cond) -> Pred {
        let all = |parts: &[Cond]| parts.iter().map(|part| self.predicate(part)).collect();
        match cond {
            Cond::Compare(op, path, value) => Pred::Compare(op, (*path).into(), self.value(value)),
            Cond::Like(path, prefix) => Pred::Like((*path).into(), (*prefix).into()),
            Cond::In(path, values) => Pred::In(
                (*path).into(),
                values.iter().map(|value| self.value(value)).collect(),
            ),
            Cond::JsonIn(user) => Pred::JsonIn("j".into(), self.user(*user)),
            Cond::Near => Pred::Near("loc".into()),
            Cond::Related(path, name, direction) => Pred::Related((*path).into(), name, direction),
            Cond::And(parts) => Pred::And(all(parts)),
            Cond::Or(parts) => Pred::Or(all(parts)),
            Cond::Not(part) => Pred::Not(Box::new(self.predicate(part))),
        }
    }
}
