//! `role:default`, `role:admin`, `role:assign`, `role:revoke`, `role:get`, `role:export`, `role:import`

use serde_json::{Map, Value as Json, json};
use skytrail_actors::accounts::messages::{ChangeRoles, ImportRoles, RoleFlag, SetFlaggedRoles};
use skytrail_actors::import::Outcome as Became;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::RoleFlags;
use skytrail_schema::id::{RoleName, UserId, check_length};

use super::{Call, Outcome, Reply, record_import, request};
use crate::audit::AuditEvent;

pub(super) async fn set_default(call: Call) -> Outcome {
    set(call, RoleFlag::Default).await
}

pub(super) async fn set_admin(call: Call) -> Outcome {
    set(call, RoleFlag::Admin).await
}

async fn set(call: Call, flag: RoleFlag) -> Outcome {
    let names = request::texts(&call.body, "roles")?.ok_or_else(unspecified_roles)?;
    let roles = request::roles(names.clone())?;
    let command = SetFlaggedRoles {
        context: call.context,
        flag,
        roles,
    };
    let user = command.context.caller.user.clone();
    call.services.accounts.set_flagged_roles(command).await?;
    let event = match flag {
        RoleFlag::Default => AuditEvent::SetDefaultRoles,
        RoleFlag::Admin => AuditEvent::SetAdminRoles,
    };
    call.audit_reporter
        .note_with(event, user.as_ref(), json!({"roles": names}));
    Reply::new(&names)
}

pub(super) async fn assign(call: Call) -> Outcome {
    change(call, true).await
}

pub(super) async fn revoke(call: Call) -> Outcome {
    change(call, false).await
}

async fn change(call: Call, is_assignment: bool) -> Outcome {
    let roles = request::texts(&call.body, "roles")?.ok_or_else(unspecified_roles)?;
    let users = request::texts(&call.body, "users")?.ok_or_else(unspecified_users)?;
    let kind = if is_assignment { "assign" } else { "revoke" };
    let data = json!({"type": kind, "user_ids": users, "roles": roles});
    let command = ChangeRoles {
        users: request::users(users),
        roles: request::roles(roles)?,
        is_assignment,
        context: call.context,
    };
    let user = command.context.caller.user.clone();
    call.services.accounts.change_roles(command).await?;
    call.audit_reporter
        .note_with(AuditEvent::ChangeRoles, user.as_ref(), data);
    Reply::new(&"OK")
}

pub(super) async fn get(call: Call) -> Outcome {
    let users = request::texts(&call.body, "users")?.filter(|users| !users.is_empty());
    let users = request::users(users.ok_or_else(unspecified_users)?);
    let caller = &call.context.caller;
    if caller.user.is_none() {
        return Err(crate::http::checks::login_required());
    }
    let asks_for_himself = matches!(users.as_slice(), [only] if caller.user.as_ref() == Some(only));
    let may_ask =
        caller.is_master() || call.services.accounts.is_admin(&caller.roles) || asks_for_himself;
    if !may_ask {
        let message = "no permission to get other users' roles";
        return Err(ApiError::new(Code::PermissionDenied, message));
    }
    let roles = call.services.accounts.roles_of(&users).await?;
    let write = |user: &UserId| {
        (
            user.to_string(),
            json!(roles.get(user).cloned().unwrap_or_default()),
        )
    };
    Reply::new(&users.iter().map(write).collect::<Map<_, _>>())
}

pub(super) async fn export(call: Call) -> Outcome {
    let roles = call.services.accounts.list_roles().into_iter();
    let written = roles.map(|(name, flags)| written(&name, flags));
    Reply::new(&written.collect::<Vec<_>>())
}

fn written(name: &RoleName, flags: RoleFlags) -> Json {
    json!({"name": name, "is_admin": flags.is_admin, "by_default": flags.by_default})
}

pub(super) async fn import(mut call: Call) -> Outcome {
    let is_dry = request::flag(&call.body, "dry_run")?;
    let roles = request::take_list(&mut call.body, "roles")?;
    if roles.is_empty() {
        return Err(unspecified_roles());
    }
    let read = |role: Json| {
        let Json::Object(role) = role else {
            return Err(request::wrong_type("roles", "a list of objects"));
        };
        let name = request::text(&role, "name")?.filter(|name| !name.is_empty());
        let invalid = || ApiError::invalid_argument("a role has no name", &["roles"]);
        let flags = RoleFlags {
            by_default: request::flag(&role, "by_default")?,
            is_admin: request::flag(&role, "is_admin")?,
        };
        let name = name.ok_or_else(invalid)?;
        check_length("a role's name", name)?;
        Ok((RoleName::from(name), flags))
    };
    let roles: Vec<_> = roles.into_iter().map(read).collect::<Result<_, _>>()?;
    let user = call.context.caller.user.clone();
    let command = ImportRoles {
        context: call.context,
        roles: roles.clone(),
        is_dry,
    };
    let outcomes = call.services.accounts.import_roles(command).await?;
    let added = roles.iter().zip(&outcomes);
    let added = added.filter(|(_, outcome)| matches!(outcome, Became::Added | Became::Updated));
    let added: Vec<_> = added
        .map(|((name, flags), _)| written(name, *flags))
        .collect();
    if !is_dry && !added.is_empty() {
        let data = json!({"roles": added});
        call.audit_reporter
            .note_with(AuditEvent::ImportRoles, user.as_ref(), data);
    }
    let item = |((name, _), outcome)| {
        let (outcome, reason) = record_import::describe(outcome);
        let mut item = json!({"name": name, "outcome": outcome});
        if let (Some(reason), Some(item)) = (reason, item.as_object_mut()) {
            item.insert("reason".to_owned(), reason.into());
        }
        item
    };
    let items: Vec<Json> = roles.into_iter().zip(outcomes).map(item).collect();
    Reply::with_info(&items, Some(&json!({"dry_run": is_dry})))
}

fn unspecified_roles() -> ApiError {
    ApiError::invalid_argument("unspecified roles in request", &["roles"])
}

fn unspecified_users() -> ApiError {
    ApiError::invalid_argument("unspecified user IDs in request", &["users"])
}
