//! The bare server: the least that an actix-web server can do for the same promise.
//!
//! It appends each body to a preallocated file, many with one `fdatasync`, and answers after that;
//! or it answers a GET from memory; or it passes every WebSocket message on to everyone. No tokens,
//! no JSON, no database.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use actix_web::http::KeepAlive;
use actix_web::web::{self, Bytes, Data, PayloadConfig};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Overwritten from the start again, so that the file never grows during a measurement.
const FILE_SIZE: usize = 64 * 1024 * 1024;
/// The most that goes into one write.
const GROUP_SIZE: usize = 1024 * 1024;

struct Append {
    body: Bytes,
    done: oneshot::Sender<()>,
}

/// Serves until the driver ends. Prints its address, as our server does.
#[actix_web::main]
pub(crate) async fn serve(path: &Path, workers: usize) -> io::Result<()> {
    let appender = Data::new(start_appender(path)?);
    let sessions = Data::new(Sessions::default());
    let server = HttpServer::new(move || {
        App::new()
            .app_data(appender.clone())
            .app_data(sessions.clone())
            .app_data(PayloadConfig::new(16 * 1024 * 1024))
            .route("/append", web::post().to(append))
            .route("/bytes/{size}", web::get().to(bytes))
            .route("/pubsub", web::get().to(pubsub))
    })
    .workers(workers)
    .tcp_nodelay(true)
    // Connections are idle while the other server has its turn, however long that is.
    .keep_alive(KeepAlive::Os)
    .bind("127.0.0.1:0")?;
    let addr = server.addrs().first().copied().expect("it is bound");
    println!("bare: ready on http://{addr}");
    io::stdout().flush()?;
    // Our input ends when the driver does, however it ends.
    std::thread::spawn(|| {
        io::copy(&mut io::stdin(), &mut io::sink()).ok();
        std::process::exit(0);
    });
    server.run().await
}

fn start_appender(path: &Path) -> io::Result<SyncSender<Append>> {
    let file = File::create(path)?;
    file.write_all_at(&vec![0; FILE_SIZE], 0)?;
    file.sync_all()?;
    let (tx, rx) = sync_channel(4096);
    std::thread::spawn(move || append_groups(&file, &rx).expect("the disk works"));
    Ok(tx)
}

/// Takes the waiting bodies, writes them at once, and answers all of them when they are on the
/// disk.
fn append_groups(file: &File, appends: &Receiver<Append>) -> io::Result<()> {
    let mut group = Vec::with_capacity(GROUP_SIZE);
    let mut waiting = Vec::new();
    let mut offset = 0;
    while let Ok(first) = appends.recv() {
        let mut next = Some(first);
        while let Some(append) = next {
            group.extend_from_slice(&append.body);
            waiting.push(append.done);
            next = if group.len() < GROUP_SIZE {
                appends.try_recv().ok()
            } else {
                None
            };
        }
        if offset + group.len() > FILE_SIZE {
            offset = 0;
        }
        file.write_all_at(&group, offset as u64)?;
        file.sync_data()?;
        offset += group.len();
        group.clear();
        for done in waiting.drain(..) {
            done.send(()).ok();
        }
    }
    Ok(())
}

/// With the query `tell`, every listener is sent what has been appended.
async fn append(
    request: HttpRequest,
    appender: Data<SyncSender<Append>>,
    sessions: Data<Sessions>,
    body: Bytes,
) -> HttpResponse {
    let told = (request.query_string() == "tell").then(|| body.clone());
    let (done, answer) = oneshot::channel();
    if appender.try_send(Append { body, done }).is_err() {
        return HttpResponse::ServiceUnavailable().finish();
    }
    match answer.await {
        Ok(()) => {
            if let Some(text) = told.and_then(|body| String::from_utf8(body.to_vec()).ok()) {
                tell(&sessions, async |mut ear| ear.text(text.clone()).await).await;
            }
            HttpResponse::Ok().body("{}")
        }
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}

async fn bytes(size: web::Path<usize>) -> HttpResponse {
    static MEMORY: [u8; 64 * 1024] = [b'x'; 64 * 1024];
    match MEMORY.get(..*size) {
        Some(body) => HttpResponse::Ok().body(Bytes::from_static(body)),
        None => HttpResponse::NotFound().finish(),
    }
}

/// The listeners, by number.
type Sessions = Mutex<BTreeMap<usize, actix_ws::Session>>;

/// A connection with the query `publish` sends to every connection without it.
async fn pubsub(
    request: HttpRequest,
    payload: web::Payload,
    sessions: Data<Sessions>,
) -> actix_web::Result<HttpResponse> {
    let (response, session, mut messages) = actix_ws::handle(&request, payload)?;
    if request.query_string() != "publish" {
        let mut sessions = sessions.lock();
        let number = sessions.last_key_value().map_or(0, |(last, _)| last + 1);
        sessions.insert(number, session.clone());
    }
    actix_web::rt::spawn(async move {
        // The connection ends when the last of its sessions is dropped.
        let _session = session;
        while let Some(Ok(message)) = messages.recv().await {
            let actix_ws::Message::Text(text) = message else {
                continue;
            };
            tell(&sessions, async |mut ear| ear.text(text.clone()).await).await;
        }
    });
    Ok(response)
}

/// Sends a message to every listener.
async fn tell(
    sessions: &Sessions,
    send: impl AsyncFn(actix_ws::Session) -> Result<(), actix_ws::Closed>,
) {
    let receivers = sessions.lock().clone();
    for (number, receiver) in receivers {
        if send(receiver).await.is_err() {
            sessions.lock().remove(&number);
        }
    }
}
