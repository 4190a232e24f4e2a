//! Accounts from outside: passwords, who may sign in, sign-ups, users from other servers, and that
//! no secret is written down.

mod at_once;
mod auth_keys;
mod import;
mod passwords;
mod providers;
mod secrets;
mod sign_up;
mod verification;

use serde_json::{Value as Json, json};

use crate::support::client::{Answer, Client};

/// Signs in with a user name and a password.
fn log_in(client: &Client, username: &str, password: &str) -> Answer {
    let auth_data = json!({"username": username});
    client.call(
        "auth:login",
        json!({"auth_data": auth_data, "password": password}),
    )
}

/// Signs up with a user name and a password.
fn sign_up(client: &Client, username: &str, password: &str) -> Answer {
    let auth_data = json!({"username": username});
    client.call(
        "auth:signup",
        json!({"auth_data": auth_data, "password": password}),
    )
}

/// Changes the client's own password; the client then has the new token.
fn change_password(client: &mut Client, old: &str, new: &str) -> Answer {
    let answer = client.call(
        "auth:password",
        json!({"old_password": old, "password": new}),
    );
    if answer.status == 200 {
        let token = answer.json()["result"]["access_token"].clone();
        client.token = token.as_str().map(str::to_owned);
    }
    answer
}

/// Returns the code and the reason of an answer's error.
fn refusal(answer: &Answer) -> (i64, Json) {
    let reason = answer.json()["error"]["info"]["reason"].clone();
    (answer.code(), reason)
}
