//! Files: uploads, downloads, names, and values that name them.

mod downloads;
mod moved;
mod names;
mod raw;
mod records;
mod s3;
mod uploads;

use serde_json::{Value as Json, json};

use crate::support::client::{Answer, Client, send};
use crate::support::server::{API_KEY, TestServer};

/// Requests a path of the server, with the client key.
pub fn ask(server: &TestServer, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    request(server, method, path, headers, None)
}

fn request(
    server: &TestServer,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Answer {
    let key = ("X-Skygear-API-Key", API_KEY);
    let headers: Vec<_> = std::iter::once(&key)
        .chain(headers)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let url = format!("{}{path}", server.base_url);
    send(method, &url, &headers, body.map(<[u8]>::to_vec)).unwrap()
}

/// Announces a file as the SDKs do; returns the asset and where to send the bytes.
fn announce(client: &Client, name: &str, content_type: &str, size: u64) -> (Json, String) {
    let body = json!({"filename": name, "content-type": content_type, "content-size": size});
    let answer = client.call("asset:put", body).result();
    let action = answer["post-request"]["action"].as_str().unwrap();
    (answer["asset"].clone(), action.to_owned())
}

/// Uploads a string; returns the asset.
pub fn upload(server: &TestServer, name: &str, content_type: &str, text: &str) -> Json {
    upload_with(server, name, &[("Content-Type", content_type)], text)
}

/// The same with these headers.
pub fn upload_with(server: &TestServer, name: &str, headers: &[(&str, &str)], text: &str) -> Json {
    let path = format!("/files/{name}");
    request(server, "PUT", &path, headers, Some(text.as_bytes())).result()
}

/// Returns the path of an asset's address on the server.
pub fn path_of(asset: &Json) -> String {
    let url = asset["$url"].as_str().unwrap();
    url[url.find("/files/").unwrap()..].to_owned()
}

/// Encodes a form as the SDKs do: further fields first, then the file.
fn form(content_type: &str, bytes: &[u8]) -> (String, Vec<u8>) {
    let mut body = b"--limit\r\nContent-Disposition: form-data; name=\"X-Extra\"\r\n\r\nv\r\n\
        --limit\r\nContent-Disposition: form-data; name=\"file\"; filename=\"blob\"\r\n"
        .to_vec();
    body.extend_from_slice(format!("Content-Type: {content_type}\r\n\r\n").as_bytes());
    body.extend_from_slice(bytes);
    body.extend_from_slice(b"\r\n--limit--\r\n");
    ("multipart/form-data; boundary=limit".to_owned(), body)
}

/// Returns how many uploads are in progress or were left behind.
fn num_unfinished(server: &TestServer) -> usize {
    let folder = server.data_dir().join("asset").join(".uploads");
    std::fs::read_dir(folder).unwrap().count()
}
