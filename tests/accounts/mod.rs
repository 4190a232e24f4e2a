//! Accounts from outside: passwords, who is let in, sign-ups, users from elsewhere, and that no
//! secret is written down.

mod auth_keys;
mod import;
mod passwords;
mod secrets;
mod sign_up;
mod verification;

use serde_json::{Value as Json, json};

use crate::support::client::{Answer, Client};

/// Signs in as a user name with a password.
fn log_in(client: &Client, username: &str, password: &str) -> Answer {
    let auth_data = json!({"username": username});
    client.call(
        "auth:login",
        json!({"auth_data": auth_data, "password": password}),
    )
}

/// Signs up as a user name with a password.
fn sign_up(client: &Client, username: &str, password: &str) -> Answer {
    let auth_data = json!({"username": username});
    client.call(
        "auth:signup",
        json!({"auth_data": auth_data, "password": password}),
    )
}

/// Changes the client's own password; the client has the new token afterwards.
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
