//! Files: a caller who is shown an address gets the file with it, and with nothing else.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::compare::{Check, same};
use super::ops::{FILES, Forged, Who};
use super::world::World;

/// The files of a history: their names, and one issued address for each.
#[derive(Debug, Default)]
pub struct Files {
    names: Vec<String>,
    addresses: Vec<String>,
    /// Addresses that were found to lead to their files.
    tried: BTreeSet<String>,
}

impl Files {
    /// The value that names a file.
    pub fn value(&self, file: usize) -> Json {
        json!({"$type": "asset", "$name": self.names[file], "$content_type": "text/plain"})
    }
}

fn content(file: usize) -> String {
    format!("what file {file} holds")
}

impl World {
    pub fn upload_files(&mut self) -> Check {
        for file in 0..FILES {
            let filename = format!("{file}.txt");
            let asked =
                json!({"filename": filename, "content-type": "text/plain", "content-size": 1});
            let asked = asked.as_object().unwrap().clone();
            let put = self.call(Who::Client, "asset:put", asked)?;
            let asset = &put.body["result"]["asset"];
            let text = |name: &str| asset[name].as_str().unwrap().to_owned();
            let (name, address) = (text("$name"), text("$url"));
            let url = format!("{}/files/{name}", self.server.base_url);
            let api_key = crate::support::server::API_KEY;
            let sent = self.agent.put(&url).header("x-skygear-api-key", api_key);
            let sent = sent
                .header("content-type", "text/plain")
                .send(content(file));
            let status = sent.map_err(|error| error.to_string())?.status();
            same("status of an upload", &json!(200), &json!(status.as_u16()))?;
            self.files.names.push(name);
            self.files.addresses.push(address);
        }
        Ok(())
    }

    /// Takes the addresses, which the model does not predict, out of an answer, and checks that
    /// each leads to the file whose name is next to it.
    pub fn take_addresses(&mut self, body: &mut Json) -> Check {
        let mut found = Vec::new();
        take(body, &mut found);
        for (name, address) in found {
            let file = self.files.names.iter().position(|known| *known == name);
            let file = file.ok_or_else(|| format!("an address of an unknown file: {name}"))?;
            let address = address.ok_or_else(|| format!("no address beside {name}"))?;
            if self.files.tried.insert(address.clone()) {
                self.gets(&address, file)?;
            }
            self.files.addresses[file] = address;
        }
        Ok(())
    }

    pub fn download(&mut self, file: usize, forged: Forged) -> Check {
        let address = self.files.addresses[file].clone();
        let (path, query) = address.split_once('?').unwrap();
        let name = &self.files.names[file];
        let time = query.split(['=', '&']).nth(1).unwrap();
        let at = |other: &str| query.replacen(time, other, 1);
        let (address, refusal) = match forged {
            Forged::Nothing => return self.gets(&address, file),
            Forged::For(other) if other == file => return self.gets(&address, file),
            Forged::Bare => (path.to_owned(), (400, 108)),
            Forged::For(other) => (address.replace(name, &self.files.names[other]), (401, 106)),
            Forged::Expired => (format!("{path}?{}", at("1500000000")), (403, 102)),
            Forged::Longer => (format!("{path}?{}", at("9999999999")), (401, 106)),
        };
        let (status, text) = self.get(&address)?;
        let body: Json = serde_json::from_str(&text).unwrap_or_default();
        let came = json!([status, body["error"]["code"]]);
        same(&address, &json!([refusal.0, refusal.1]), &came)
    }

    fn gets(&self, address: &str, file: usize) -> Check {
        let came = self.get(address)?;
        same(
            address,
            &json!([200, content(file)]),
            &json!([came.0, came.1]),
        )
    }

    fn get(&self, address: &str) -> Result<(u16, String), String> {
        let answer = self.agent.get(address).call();
        let mut answer = answer.map_err(|error| format!("{address}: {error}"))?;
        let text = answer.body_mut().read_to_string();
        Ok((answer.status().as_u16(), text.map_err(|it| it.to_string())?))
    }
}

/// Takes all addresses out, each with the name next to it.
fn take(value: &mut Json, found: &mut Vec<(String, Option<String>)>) {
    match value {
        Json::Object(members) => {
            if members.get("$type").is_some_and(|it| it == "asset") {
                let name = members["$name"].as_str().unwrap_or_default().to_owned();
                let address = members.remove("$url");
                found.push((name, address.and_then(|it| it.as_str().map(str::to_owned))));
            }
            members.values_mut().for_each(|value| take(value, found));
        }
        Json::Array(items) => items.iter_mut().for_each(|value| take(value, found)),
        _ => {}
    }
}
