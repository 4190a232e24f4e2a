//! A small server of static files, with an origin of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::sdk::set_up;

/// How long a page may take for its report.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Whether the page has reported.
type Reported = Arc<(Mutex<bool>, Condvar)>;

pub struct Site {
    pub base_url: String,
}

impl Site {
    /// Serves until the process ends.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let reported = Reported::default();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let reported = Arc::clone(&reported);
                std::thread::spawn(move || serve(&stream, &reported));
            }
        });
        Self { base_url }
    }
}

fn serve(mut stream: &TcpStream, reported: &Reported) -> Option<()> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let request = lines.next()?;
    lines.find(String::is_empty)?;
    let (kind, body) = match request.split(' ').nth(1)? {
        "/" => ("text/html", include_bytes!("page.html").to_vec()),
        "/again.html" => ("text/html", include_bytes!("again.html").to_vec()),
        "/page.js" => ("text/javascript", include_bytes!("page.js").to_vec()),
        "/skygear.js" => ("text/javascript", bundle()),
        "/reported" => {
            *reported.0.lock().unwrap() = true;
            reported.1.notify_all();
            ("text/plain", Vec::new())
        }
        "/until-reported" => {
            let waiting = reported.0.lock().unwrap();
            let is_waiting = |is_reported: &mut bool| !*is_reported;
            drop(reported.1.wait_timeout_while(waiting, TIMEOUT, is_waiting));
            ("image/png", Vec::new())
        }
        _ => ("text/plain", Vec::new()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()
}

fn bundle() -> Vec<u8> {
    let bundle = set_up("tests/node/node_modules").join("skygear/dist/skygear.min.js");
    std::fs::read(bundle).unwrap()
}
