//! Carrying operations out, and holding the server's answers against the model.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};

use super::changes::{Outcome, Whole};
use super::model::{Asker, Gate, LOGIN, Refusal, Scope, TAKEN};
use super::ops::{Asked, Db, Id, Item, KINDS, Op, TEXTS, USERS, Val, Who};
use super::search::FAR;
use super::world::{Reply, World};

/// In an expectation: any value will do.
const ANY: &str = "<any>";
const NOT_OTHERS: Refusal = Refusal(403, 102, "no permission to get other users' roles");
const DUPLICATED: Refusal = Refusal(409, 109, "user duplicated");

pub type Check = Result<(), String>;

/// Whether this server has an action.
pub fn knows(action: &str) -> bool {
    skytrail::action::find(action).is_some()
}

impl World {
    /// Signs users up and makes every field, by operations that are checked like any other.
    pub fn furnish(&mut self) -> Check {
        let profile = vec![
            ("s", Val::Text(TEXTS[0])),
            ("n", Val::Number(1)),
            ("u", Val::User(0)),
            ("j", Val::Users(vec![0])),
        ];
        for _ in 0..4 {
            self.play(&Op::SignUp(false, profile.clone()))?;
        }
        for id in [Id::Item(0), Id::Note(0)] {
            for reference in [None, Some(("r", Val::Item(0)))] {
                let mut fields = profile.clone();
                fields.push(("loc", Val::Place(true)));
                fields.extend(reference);
                let item = Item {
                    id,
                    access: super::ops::Access::Absent,
                    fields,
                    smuggled: Vec::new(),
                };
                self.play(&Op::Save(Who::Master, Db::Public, vec![item], false))?;
            }
        }
        Ok(())
    }

    /// Carries an operation out; an error says how the answer differs from what must be.
    pub fn play(&mut self, op: &Op) -> Check {
        match op {
            Op::SignUp(master, profile) => self.sign_up(*master, profile),
            Op::ChangeRoles(who, roles, users, add) => self.change_roles(*who, roles, users, *add),
            Op::FlagRoles(roles, admin) => self.flag_roles(roles, *admin),
            Op::GetRoles(who, users) => self.get_roles(*who, users),
            Op::Creation(kind, roles) => {
                self.model.kinds.entry((*kind).into()).or_default().creation = owned(roles);
                self.settle(
                    "schema:access",
                    json!({"type": kind, "create_roles": roles}),
                )
            }
            Op::Default(kind, grants) => {
                let (wire, entries) = self.grants(grants);
                self.model.kinds.entry((*kind).into()).or_default().default = Some(entries);
                self.settle(
                    "schema:default_access",
                    json!({"type": kind, "default_access": wire}),
                )
            }
            Op::Rules(who, rules) => self.set_rules(*who, &self.rules(rules)),
            Op::Disable(who, user, off) => self.disable(*who, *user, *off),
            Op::Save(who, db, items, atomic) => self.save(*who, *db, items, *atomic),
            Op::Delete(who, db, ids, atomic) => self.delete(*who, *db, ids, *atomic),
            Op::Fetch(who, db, ids) => self.fetch(*who, *db, ids),
            Op::Query(who, db, asked) => self.query(*who, *db, asked),
            Op::Relate(who, name, users, add) => self.relate(*who, name, users, *add),
            Op::Related(who, name, direction) => self.related(*who, name, direction),
            Op::Me(who) => self.me(*who),
        }
    }

    /// Everybody looks at everything.
    pub fn sweep(&mut self) -> Check {
        let mut everyone = vec![Who::Client, Who::Master];
        everyone.extend((0..self.users.len()).flat_map(|user| [Who::User(user), Who::Token(user)]));
        let ids = (0..5)
            .map(Id::Note)
            .chain((0..4).map(Id::Item))
            .chain((0..USERS).map(Id::User));
        let ids: Vec<Id> = ids.collect();
        for who in everyone {
            for db in [Db::Public, Db::Private, Db::Union] {
                self.fetch(who, db, &ids)?;
                for kind in KINDS {
                    let all = Asked {
                        kind,
                        cond: None,
                        sort: Vec::new(),
                        include: Vec::new(),
                        desired: None,
                        count: true,
                        limit: None,
                        offset: 0,
                    };
                    self.query(who, db, &all)?;
                }
            }
        }
        Ok(())
    }

    /// Calls an action, and makes sure that its errors tell nothing that the caller did not say.
    fn ask(&self, who: Who, action: &str, body: Json) -> Result<Reply, String> {
        let said = body.to_string();
        let reply = self.call(who, action, body.as_object().unwrap().clone())?;
        let items = reply.body["result"].as_array().into_iter().flatten();
        let errors = items
            .filter(|item| item["_type"] == "error")
            .chain(reply.body.get("error"));
        for error in errors.map(Json::to_string) {
            if let Some(told) = TEXTS
                .iter()
                .find(|text| error.contains(*text) && !said.contains(*text))
            {
                return Err(format!(
                    "{action} by {who:?} tells {told:?} in an error: {error}"
                ));
            }
        }
        Ok(reply)
    }

    /// Changes a setting with the master key.
    fn settle(&self, action: &str, body: Json) -> Check {
        let reply = self.ask(Who::Master, action, body)?;
        if reply.status == 200 {
            Ok(())
        } else {
            Err(format!("{action}: {reply:?}"))
        }
    }

    fn sign_up(&mut self, master: bool, profile: &[(&'static str, Val)]) -> Check {
        if self.users.len() >= USERS {
            return Ok(());
        }
        let fields = self.fields("user", profile);
        let mut smuggled = json!(fields);
        smuggled["_access"] = json!([{"user_id": "nobody", "level": "read"}]);
        smuggled["_ownerID"] = json!("nobody");
        let who = if master { Who::Master } else { Who::Client };
        let reply = self.ask(who, "auth:signup", json!({"profile": smuggled}))?;
        let id = reply.body["result"]["user_id"]
            .as_str()
            .unwrap_or("<refused>")
            .to_owned();
        let record = match self.model.sign_up(master, &id, &fields) {
            Err(TAKEN) => return refused(&reply, &DUPLICATED),
            Err(other) => return Err(format!("a sign-up was to fail: {other:?}")),
            Ok(record) => record,
        };
        if reply.status != 200 {
            self.model.records.remove(&("user".to_owned(), id));
            return Err(format!("a sign-up was refused: {}", reply.body));
        }
        let token = reply.body["result"]["access_token"]
            .as_str()
            .unwrap_or_default();
        self.users.push((id.clone(), token.to_owned()));
        let roles = self.model.default_roles.clone();
        let user = super::model::User {
            disabled: false,
            roles: roles.clone(),
        };
        self.model.users.insert(id.clone(), user);
        let asker = Asker {
            master,
            user: Some(id.clone()),
            roles,
        };
        let profile = self.model.shown(&asker, &record);
        // From now on; the answer says when the user was here before.
        let record = self
            .model
            .records
            .get_mut(&("user".to_owned(), id))
            .unwrap();
        record.fields.insert("last_login_at".into(), ANY.into());
        same("profile", &profile.into(), &reply.body["result"]["profile"])
    }

    fn enter(&mut self, who: Who, gate: Gate) -> Result<Asker, Refusal> {
        let shown = self.shown(who);
        self.model.enter(&shown, gate)
    }

    fn enter_database(&mut self, who: Who, gate: Gate, db: Db) -> Result<(Asker, Scope), Refusal> {
        let database = self.database(db);
        let asker = self.enter(who, gate)?;
        let scope = self.model.scope(&asker, &database)?;
        Ok((asker, scope))
    }

    fn change_roles(&mut self, who: Who, roles: &[&str], users: &[usize], add: bool) -> Check {
        if roles.is_empty() {
            return Ok(());
        }
        let users: Vec<String> = users.iter().map(|user| self.user(*user)).collect();
        let action = if add { "role:assign" } else { "role:revoke" };
        let reply = self.ask(who, action, json!({"roles": roles, "users": users}))?;
        if let Err(refusal) = self.enter(who, Gate::Admin) {
            return refused(&reply, &refusal);
        }
        for user in users {
            let user = self.model.users.get_mut(&user).unwrap();
            for role in owned(roles) {
                let _ = if add {
                    user.roles.insert(role)
                } else {
                    user.roles.remove(&role)
                };
            }
        }
        same(action, &json!("OK"), &reply.body["result"])
    }

    fn flag_roles(&mut self, roles: &[&str], admin: bool) -> Check {
        let flagged = if admin {
            &mut self.model.admin_roles
        } else {
            &mut self.model.default_roles
        };
        *flagged = owned(roles);
        let action = if admin { "role:admin" } else { "role:default" };
        self.settle(action, json!({"roles": roles}))
    }

    fn get_roles(&mut self, who: Who, users: &[usize]) -> Check {
        let users: BTreeSet<String> = users.iter().map(|user| self.user(*user)).collect();
        let reply = self.ask(who, "role:get", json!({"users": users}))?;
        let asker = match self.enter(who, Gate::Maybe) {
            Err(refusal) => return refused(&reply, &refusal),
            Ok(asker) if asker.user.is_none() => return refused(&reply, &LOGIN),
            Ok(asker) => asker,
        };
        let own = users.len() == 1 && users.first() == asker.user.as_ref();
        if !asker.master && !own && asker.roles.is_disjoint(&self.model.admin_roles) {
            return refused(&reply, &NOT_OTHERS);
        }
        let roles = users.into_iter().map(|user| {
            let roles = self.model.users.get(&user).map(|user| user.roles.clone());
            (user, json!(roles.unwrap_or_default()))
        });
        same(
            "role:get",
            &Json::Object(roles.collect()),
            &reply.body["result"],
        )
    }

    fn set_rules(&mut self, who: Who, rules: &[super::model::Rule]) -> Check {
        if !knows("schema:field_access:update") {
            return Ok(());
        }
        let wire = |rule: &super::model::Rule| {
            json!({
                "record_type": rule.kind, "record_field": rule.field, "user_role": rule.who,
                "writable": rule.writable, "readable": rule.readable,
                "comparable": rule.comparable, "discoverable": rule.discoverable,
            })
        };
        let access: Vec<Json> = rules.iter().map(wire).collect();
        let reply = self.ask(who, "schema:field_access:update", json!({"access": access}))?;
        if let Err(refusal) = self.enter(who, Gate::Admin) {
            return refused(&reply, &refusal);
        }
        self.model.rules = rules.to_vec();
        let got = reply.body["result"]["access"]
            .as_array()
            .map_or(0, Vec::len);
        if got == rules.len() {
            Ok(())
        } else {
            Err(format!("rules: {}", reply.body))
        }
    }

    fn disable(&mut self, who: Who, user: usize, off: bool) -> Check {
        if !knows("auth:disable:set") {
            return Ok(());
        }
        let user = self.user(user);
        let reply = self.ask(
            who,
            "auth:disable:set",
            json!({"auth_id": user, "disabled": off}),
        )?;
        if let Err(refusal) = self.enter(who, Gate::Admin) {
            return refused(&reply, &refusal);
        }
        self.model.users.get_mut(&user).unwrap().disabled = off;
        same(
            "auth:disable:set",
            &json!({"status": "OK"}),
            &reply.body["result"],
        )
    }

    fn save(&mut self, who: Who, db: Db, items: &[Item], atomic: bool) -> Check {
        let (wires, sent) = self.items(items);
        let body = json!({"records": wires, "atomic": atomic, "database_id": self.database(db)});
        let reply = self.ask(who, "record:save", body)?;
        match self.enter_database(who, Gate::User, db) {
            Err(refusal) => refused(&reply, &refusal),
            Ok((asker, scope)) => batch(&reply, self.model.save(&asker, &scope, &sent, atomic)),
        }
    }

    fn delete(&mut self, who: Who, db: Db, ids: &[Id], atomic: bool) -> Check {
        let ids = self.ids(ids);
        let body = json!({"ids": full(&ids), "atomic": atomic, "database_id": self.database(db)});
        let reply = self.ask(who, "record:delete", body)?;
        match self.enter_database(who, Gate::User, db) {
            Err(refusal) => refused(&reply, &refusal),
            Ok((asker, scope)) => batch(&reply, self.model.delete(&asker, &scope, &ids, atomic)),
        }
    }

    fn fetch(&mut self, who: Who, db: Db, ids: &[Id]) -> Check {
        let ids = self.ids(ids);
        let body = json!({"ids": full(&ids), "database_id": self.database(db)});
        let reply = self.ask(who, "record:fetch", body)?;
        let (asker, scope) = match self.enter_database(who, Gate::Maybe, db) {
            Err(refusal) => return refused(&reply, &refusal),
            Ok(entered) => entered,
        };
        let fetch = |id: &(String, String)| {
            (
                format!("{}/{}", id.0, id.1),
                self.model.fetch(&asker, &scope, id),
            )
        };
        batch(&reply, Ok(ids.iter().map(fetch).collect()))
    }

    fn query(&mut self, who: Who, db: Db, asked: &Asked) -> Check {
        let search = self.search(asked);
        let mut body = search.wire();
        body.insert("database_id".into(), self.database(db).into());
        let reply = self.ask(who, "record:query", body.into())?;
        let (asker, scope) = match self.enter_database(who, Gate::Maybe, db) {
            Err(refusal) => return refused(&reply, &refusal),
            Ok(entered) => entered,
        };
        if let Some((field, need)) = self.model.forbidden(&asker, &search) {
            let text =
                format!("Cannot query on field \"{field}\" due to Field ACL, need to be {need}");
            refused(&reply, &Refusal(403, 124, ""))?;
            return same("message", &text.into(), &reply.body["error"]["message"]);
        }
        let all = self.model.search(&asker, &scope, &search).all;
        let got = reply.body["result"]
            .as_array()
            .ok_or_else(|| format!("no result: {}", reply.body))?;
        let count = search.count.then_some(all.len());
        same("count", &json!(count), &reply.body["info"]["count"])?;
        let rest = all.len().saturating_sub(search.offset);
        let page = search.limit.map_or(rest, |limit| limit.min(rest));
        same("length", &json!(page), &json!(got.len()))?;
        let mut seen = BTreeSet::new();
        for (place, record) in got.iter().enumerate() {
            let found = all.iter().find(|(_, wire)| wire["_id"] == record["_id"]);
            let (keys, wire) = found.ok_or_else(|| format!("must not come: {record}"))?;
            same("record", &Json::Object(wire.clone()), record)?;
            same("order", &json!(all[search.offset + place].0), &json!(keys))?;
            if !seen.insert(record["_id"].to_string()) {
                return Err(format!("came twice: {record}"));
            }
        }
        Ok(())
    }

    /// What the caller is shown of a user whom he names: access lists do not apply, rules do.
    fn profile(&self, asker: &Asker, user: &str) -> Json {
        let record = self.model.record("user", user);
        match record.filter(|record| record.database.is_empty()) {
            Some(record) => self.model.shown(asker, record).into(),
            None => json!({"_id": format!("user/{user}"), "_type": "record", "_access": null}),
        }
    }

    fn relate(&mut self, who: Who, name: &str, users: &[usize], add: bool) -> Check {
        let users: BTreeSet<String> = users.iter().map(|user| self.user(*user)).collect();
        let action = if add {
            "relation:add"
        } else {
            "relation:remove"
        };
        let reply = self.ask(who, action, json!({"name": name, "targets": users}))?;
        let asker = match self.enter(who, Gate::User) {
            Err(refusal) => return refused(&reply, &refusal),
            Ok(asker) => asker,
        };
        let me = asker.user.clone().unwrap();
        for (place, user) in users.into_iter().enumerate() {
            let got = &reply.body["result"][place];
            let pair = (name.to_owned(), me.clone(), user.clone());
            if !add {
                self.model.relations.remove(&pair);
                same("id", &user.into(), &got["id"])?;
                continue;
            }
            self.model.relations.insert(pair);
            let data = self.profile(&asker, &user);
            same(
                "relation",
                &json!({"id": user, "type": "user", "data": data}),
                got,
            )?;
        }
        Ok(())
    }

    fn related(&mut self, who: Who, name: &str, direction: &str) -> Check {
        if !knows("relation:query") {
            return Ok(());
        }
        let body = json!({"name": name, "direction": direction});
        let reply = self.ask(who, "relation:query", body)?;
        let asker = match self.enter(who, Gate::User) {
            Err(refusal) => return refused(&reply, &refusal),
            Ok(asker) => asker,
        };
        let me = asker.user.clone().unwrap();
        let has = |from: &str, to: &str| {
            let pair = (name.to_owned(), from.to_owned(), to.to_owned());
            self.model.relations.contains(&pair)
        };
        let is_meant = |user: &&String| match direction {
            "outward" => has(&me, user),
            "inward" => has(user, &me),
            _ => has(&me, user) && has(user, &me),
        };
        let users = self.model.users.keys().filter(is_meant);
        let users: Vec<Json> = users
            .map(|user| json!({"id": user, "type": "user", "data": self.profile(&asker, user)}))
            .collect();
        same("count", &json!(users.len()), &reply.body["info"]["count"])?;
        same("users", &users.into(), &reply.body["result"])
    }

    fn me(&mut self, who: Who) -> Check {
        let reply = self.ask(who, "me", json!({}))?;
        let asker = match self.enter(who, Gate::User) {
            Err(refusal) => return refused(&reply, &refusal),
            Ok(asker) => asker,
        };
        let id = asker.user.clone().unwrap();
        if self.model.record("user", &id).is_none() {
            let sent = super::changes::Sent {
                kind: "user".into(),
                key: id.clone(),
                access: None,
                fields: BTreeMap::new(),
            };
            let made = self.model.save(&asker, &Scope::Public, &[sent], false);
            if !matches!(made.as_deref(), Ok([(_, Outcome::Record(_))])) {
                return if reply.status >= 400 {
                    Ok(())
                } else {
                    Err(format!("me: {}", reply.body))
                };
            }
        }
        let record = self.model.record("user", &id).unwrap();
        if !record.database.is_empty() {
            return if reply.status >= 400 {
                Ok(())
            } else {
                Err(format!("me: {}", reply.body))
            };
        }
        let result = &reply.body["result"];
        same(
            "profile",
            &self.model.shown(&asker, record).into(),
            &result["profile"],
        )?;
        let roles = result.get("roles").cloned().unwrap_or_else(|| json!([]));
        same("roles", &json!(self.model.users[&id].roles), &roles)
    }
}

fn owned(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn full(ids: &[(String, String)]) -> Vec<String> {
    ids.iter()
        .map(|(kind, key)| format!("{kind}/{key}"))
        .collect()
}

fn refused(reply: &Reply, refusal: &Refusal) -> Check {
    let error = &reply.body["error"];
    let is_same =
        reply.status == refusal.0 && is_error(error, refusal) && reply.body.get("result").is_none();
    if is_same {
        Ok(())
    } else {
        Err(format!(
            "must be refused with {refusal:?}, came {} {}",
            reply.status, reply.body
        ))
    }
}

fn is_error(error: &Json, Refusal(_, code, message): &Refusal) -> bool {
    error["code"] == *code && (message.is_empty() || error["message"] == *message)
}

/// Holds the answer of a batch against what must come of its items.
fn batch(reply: &Reply, expected: Result<Vec<(String, Outcome)>, Whole>) -> Check {
    let expected = match expected {
        Err(Whole::Refused(refusal)) => return refused(reply, &refusal),
        Err(Whole::Atomic(failed)) => {
            refused(
                reply,
                &Refusal(
                    409,
                    115,
                    "Atomic Operation rolled back due to one or more errors",
                ),
            )?;
            let info = &reply.body["error"]["info"];
            let wrong = failed
                .iter()
                .find(|(id, refusal)| !is_error(&info[id.as_str()], refusal));
            return match wrong {
                None => Ok(()),
                Some(wrong) => Err(format!("must be in info: {wrong:?}, came {}", reply.body)),
            };
        }
        Ok(expected) => expected,
    };
    let got = reply.body["result"]
        .as_array()
        .ok_or_else(|| format!("no result: {}", reply.body))?;
    same("length", &json!(expected.len()), &json!(got.len()))?;
    for ((id, expected), got) in expected.into_iter().zip(got) {
        match expected {
            Outcome::Record(wire) => same("record", &wire.into(), got)?,
            Outcome::Deleted => same("deleted", &json!({"_id": id, "_type": "record"}), got)?,
            Outcome::Failed(refusal) => {
                let is_same =
                    got["_type"] == "error" && got["_id"] == id && is_error(got, &refusal);
                if !is_same {
                    return Err(format!("{id} must fail with {refusal:?}, came {got}"));
                }
            }
        }
    }
    Ok(())
}

/// Compares what must be with what came. Records have times, which are not foretold.
fn same(what: &str, expected: &Json, got: &Json) -> Check {
    let is_same = match (expected, got) {
        (Json::Object(expected), Json::Object(got)) => return same_object(what, expected, got),
        (Json::Array(expected), Json::Array(got)) if expected.len() == got.len() => {
            return expected
                .iter()
                .zip(got)
                .try_for_each(|(expected, got)| same(what, expected, got));
        }
        (Json::String(text), got) if text == ANY => !got.is_null(),
        (Json::String(text), got) if text == FAR => {
            got.as_f64().is_some_and(|metres| metres > 1000.0)
        }
        (expected, got) => expected == got,
    };
    if is_same {
        Ok(())
    } else {
        Err(format!("{what} must be {expected}, came {got}"))
    }
}

fn same_object(what: &str, expected: &Map<String, Json>, got: &Map<String, Json>) -> Check {
    let is_record = expected.contains_key("_created_by");
    let is_time = |name: &str| is_record && ["_created_at", "_updated_at"].contains(&name);
    let differs = || {
        let (expected, got) = (json!(expected), json!(got));
        format!("{what} must be {expected}, came {got}")
    };
    for (name, value) in got {
        if is_time(name) && value.as_str().is_some_and(|time| !time.starts_with("2001")) {
            continue;
        }
        let wanted = expected
            .get(name)
            .ok_or_else(|| format!("{name}: {}", differs()))?;
        same(what, wanted, value).map_err(|inner| format!("{name}: {}: {inner}", differs()))?;
    }
    if expected.keys().all(|name| got.contains_key(name)) {
        Ok(())
    } else {
        Err(differs())
    }
}
