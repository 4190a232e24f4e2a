//! Carries operations out, and compares the server's answers with the model.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::changes::{Batch, Outcome};
use super::compare::{Check, batch, refused, same};
use super::model::{Gate, Rec, Records, Refusal, Scope, Viewer};
use super::ops::{Asked, Db, Id, Item, KINDS, Op, TEXTS, USERS, Val, Who};
use super::users::owned;
use super::world::{Reply, World};

impl World {
    /// Signs users up and creates every field, by operations that are checked like any other.
    pub fn furnish(&mut self) -> Check {
        self.upload_files()?;
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
                fields.push(("f", Val::File(0)));
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
        self.bring_devices()
    }

    /// Carries an operation out; an error says how the answer differs from the expected one.
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
            Op::Download(file, forged) => self.download(*file, *forged),
            Op::Register(who, device) => self.register(*who, *device),
            Op::Unregister(who, device) => self.unregister(*who, *device),
            Op::Subscribe(who, db, device, name, it) => {
                self.subscribe((*who, *db), (*device, *name), it)
            }
            Op::Unsubscribe(who, db, device, name) => {
                self.unsubscribe((*who, *db), (*device, *name))
            }
            Op::Subscriptions(who, db, device) => self.list_subscriptions((*who, *db), *device),
        }
    }

    /// Every caller looks at everything.
    pub fn sweep(&mut self) -> Check {
        let mut everyone = vec![Who::Client, Who::Master];
        everyone.extend(
            (0..self.users.len())
                .flat_map(|user| [Who::User(user), Who::Token(user), Who::RightsOf(user)]),
        );
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

    /// Calls an action, and checks that its errors reveal nothing that the caller did not send.
    pub fn ask(&mut self, who: Who, action: &str, body: Json) -> Result<Reply, String> {
        let said = body.to_string();
        let mut reply = self.call(who, action, body.as_object().unwrap().clone())?;
        self.take_addresses(&mut reply.body)?;
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
    pub fn settle(&mut self, action: &str, body: Json) -> Check {
        let reply = self.ask(Who::Master, action, body)?;
        if reply.status == 200 {
            Ok(())
        } else {
            Err(format!("{action}: {reply:?}"))
        }
    }

    pub fn enter(&mut self, who: Who, gate: Gate) -> Result<Viewer, Refusal> {
        let shown = self.shown(who);
        self.model.enter(&shown, gate)
    }

    pub fn enter_database(
        &mut self,
        who: Who,
        gate: Gate,
        db: Db,
    ) -> Result<(Viewer, Scope), Refusal> {
        let database = self.database(db);
        let viewer = self.enter(who, gate)?;
        let scope = self.model.scope(&viewer, &database)?;
        Ok((viewer, scope))
    }

    fn save(&mut self, who: Who, db: Db, items: &[Item], atomic: bool) -> Check {
        let (wires, sent) = self.items(items);
        let body = json!({"records": wires, "atomic": atomic, "database_id": self.database(db)});
        let reply = self.ask(who, "record:save", body)?;
        match self.enter_database(who, Gate::User, db) {
            Err(refusal) => refused(&reply, &refusal),
            Ok((viewer, scope)) => {
                let before = self.model.records.clone();
                let saved = self.model.save(&viewer, &scope, &sent, atomic);
                let changed = changed(&self.model.records, &saved);
                batch(&reply, saved)?;
                self.hear(&changed, &before)
            }
        }
    }

    fn delete(&mut self, who: Who, db: Db, ids: &[Id], atomic: bool) -> Check {
        let ids = self.ids(ids);
        let body = json!({"ids": full(&ids), "atomic": atomic, "database_id": self.database(db)});
        let reply = self.ask(who, "record:delete", body)?;
        match self.enter_database(who, Gate::User, db) {
            Err(refusal) => refused(&reply, &refusal),
            Ok((viewer, scope)) => {
                // Notices of a deletion show the record as it was.
                let before = self.model.records.clone();
                let deleted = self.model.delete(&viewer, &scope, &ids, atomic);
                let changed = changed(&before, &deleted);
                batch(&reply, deleted)?;
                self.hear(&changed, &before)
            }
        }
    }

    fn fetch(&mut self, who: Who, db: Db, ids: &[Id]) -> Check {
        let ids = self.ids(ids);
        let body = json!({"ids": full(&ids), "database_id": self.database(db)});
        let reply = self.ask(who, "record:fetch", body)?;
        let (viewer, scope) = match self.enter_database(who, Gate::Maybe, db) {
            Err(refusal) => return refused(&reply, &refusal),
            Ok(entered) => entered,
        };
        let fetch = |id: &(String, String)| {
            (
                format!("{}/{}", id.0, id.1),
                self.model.fetch(&viewer, &scope, id),
            )
        };
        batch(&reply, Ok(ids.iter().map(fetch).collect()))
    }

    fn query(&mut self, who: Who, db: Db, asked: &Asked) -> Check {
        let search = self.search(asked);
        let mut body = search.wire();
        body.insert("database_id".into(), self.database(db).into());
        let reply = self.ask(who, "record:query", body.into())?;
        let (viewer, scope) = match self.enter_database(who, Gate::Maybe, db) {
            Err(refusal) => return refused(&reply, &refusal),
            Ok(entered) => entered,
        };
        if let Some((field, need)) = self.model.forbidden(&viewer, &search) {
            let text =
                format!("Cannot query on field \"{field}\" due to Field ACL, need to be {need}");
            refused(&reply, &Refusal(403, 124, ""))?;
            return same("message", &text.into(), &reply.body["error"]["message"]);
        }
        let all = self.model.search(&viewer, &scope, &search).all;
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
}

/// Returns the records of a batch that were written or deleted.
fn changed(records: &Records, batch: &Batch) -> Vec<Rec> {
    let done = batch.iter().flatten();
    let done = done.filter(|(_, outcome)| !matches!(outcome, Outcome::Failed(_)));
    let named = |(id, _): &(String, Outcome)| {
        let (kind, key) = id.split_once('/').unwrap();
        records[&(kind.to_owned(), key.to_owned())].clone()
    };
    done.map(named).collect()
}

fn full(ids: &[(String, String)]) -> Vec<String> {
    ids.iter()
        .map(|(kind, key)| format!("{kind}/{key}"))
        .collect()
}
