//! Users, roles, rules and relations: carrying operations out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::changes::{Outcome, Sent};
use super::compare::{ANY, Check, refused, same};
use super::model::{Gate, LOGIN, Refusal, Rule, Scope, TAKEN, User, Viewer};
use super::ops::{USERS, Val, Who};
use super::world::World;

const NOT_OTHERS: Refusal = Refusal(403, 102, "no permission to get other users' roles");
const DUPLICATED: Refusal = Refusal(409, 109, "user duplicated");

impl World {
    pub fn sign_up(&mut self, master: bool, profile: &[(&'static str, Val)]) -> Check {
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
        let user = User {
            disabled: false,
            roles: roles.clone(),
        };
        self.model.users.insert(id.clone(), user);
        let viewer = Viewer {
            master,
            user: Some(id.clone()),
            roles,
        };
        let profile = self.model.shown(&viewer, &record);
        // Only later answers have it: an answer gives the time of the previous login.
        let record = self
            .model
            .records
            .get_mut(&("user".to_owned(), id))
            .unwrap();
        record.fields.insert("last_login_at".into(), ANY.into());
        same("profile", &profile.into(), &reply.body["result"]["profile"])
    }

    pub fn change_roles(&mut self, who: Who, roles: &[&str], users: &[usize], add: bool) -> Check {
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

    pub fn flag_roles(&mut self, roles: &[&str], admin: bool) -> Check {
        let flagged = if admin {
            &mut self.model.admin_roles
        } else {
            &mut self.model.default_roles
        };
        *flagged = owned(roles);
        let action = if admin { "role:admin" } else { "role:default" };
        self.settle(action, json!({"roles": roles}))
    }

    pub fn get_roles(&mut self, who: Who, users: &[usize]) -> Check {
        let users: BTreeSet<String> = users.iter().map(|user| self.user(*user)).collect();
        let reply = self.ask(who, "role:get", json!({"users": users}))?;
        let viewer = match self.enter(who, Gate::Maybe) {
            Err(refusal) => return refused(&reply, &refusal),
            Ok(viewer) if viewer.user.is_none() => return refused(&reply, &LOGIN),
            Ok(viewer) => viewer,
        };
        let own = users.len() == 1 && users.first() == viewer.user.as_ref();
        if !viewer.master && !own && viewer.roles.is_disjoint(&self.model.admin_roles) {
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

    pub fn set_rules(&mut self, who: Who, rules: &[Rule]) -> Check {
        let wire = |rule: &Rule| {
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

    pub fn disable(&mut self, who: Who, user: usize, off: bool) -> Check {
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

    /// Returns what the caller is shown of a user whom they name: rules apply, access lists do not.
    pub fn profile(&self, viewer: &Viewer, user: &str) -> Json {
        let record = self.model.record("user", user);
        match record.filter(|record| self.model.in_sight(viewer, &Scope::Public, record)) {
            Some(record) => self.model.shown(viewer, record).into(),
            None => json!({"_id": format!("user/{user}"), "_type": "record", "_access": null}),
        }
    }

    pub fn relate(&mut self, who: Who, name: &str, users: &[usize], add: bool) -> Check {
        let users: BTreeSet<String> = users.iter().map(|user| self.user(*user)).collect();
        let action = if add {
            "relation:add"
        } else {
            "relation:remove"
        };
        let reply = self.ask(who, action, json!({"name": name, "targets": users}))?;
        let viewer = match self.enter(who, Gate::User) {
            Err(refusal) => return refused(&reply, &refusal),
            Ok(viewer) => viewer,
        };
        let me = viewer.user.clone().unwrap();
        for (place, user) in users.into_iter().enumerate() {
            let got = &reply.body["result"][place];
            let pair = (name.to_owned(), me.clone(), user.clone());
            if !add {
                self.model.relations.remove(&pair);
                same("id", &user.into(), &got["id"])?;
                continue;
            }
            self.model.relations.insert(pair);
            let data = self.profile(&viewer, &user);
            same(
                "relation",
                &json!({"id": user, "type": "user", "data": data}),
                got,
            )?;
        }
        Ok(())
    }

    pub fn related(&mut self, who: Who, name: &str, direction: &str) -> Check {
        let body = json!({"name": name, "direction": direction});
        let reply = self.ask(who, "relation:query", body)?;
        let viewer = match self.enter(who, Gate::User) {
            Err(refusal) => return refused(&reply, &refusal),
            Ok(viewer) => viewer,
        };
        let me = viewer.user.clone().unwrap();
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
            .map(|user| json!({"id": user, "type": "user", "data": self.profile(&viewer, user)}))
            .collect();
        same("count", &json!(users.len()), &reply.body["info"]["count"])?;
        same("users", &users.into(), &reply.body["result"])
    }

    pub fn me(&mut self, who: Who) -> Check {
        let reply = self.ask(who, "me", json!({}))?;
        let viewer = match self.enter(who, Gate::User) {
            Err(refusal) => return refused(&reply, &refusal),
            Ok(viewer) => viewer,
        };
        let id = viewer.user.clone().unwrap();
        if self.model.record("user", &id).is_none() {
            let sent = Sent {
                kind: "user".into(),
                key: id.clone(),
                access: None,
                fields: BTreeMap::new(),
            };
            let made = self.model.save(&viewer, &Scope::Public, &[sent], false);
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
            &self.model.shown(&viewer, record).into(),
            &result["profile"],
        )?;
        let roles = result.get("roles").cloned().unwrap_or_else(|| json!([]));
        same("roles", &json!(self.model.users[&id].roles), &roles)
    }
}

pub fn owned(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
