//! Keys and certificates, created once for all tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The app of the client certificate.
pub const APP: &str = "com.example.notes";

/// A folder with an authority (`ca`), a certificate of this machine (`server`), one of an app
/// (`app`), a key of a team (`team`), a service account's (`account`), and those of a stranger.
pub static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    folder
});

/// Returns the path of one of the files.
pub fn path(name: &str) -> PathBuf {
    FOLDER.path().join(name)
}

/// Returns the path of one of the files as a setting.
pub fn setting(name: &str) -> String {
    path(name).to_string_lossy().into_owned()
}

/// Returns the content of one of the files.
pub fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

fn make(folder: &Path) {
    let signed = ["-CA", "ca.pem", "-CAkey", "ca.key"];
    let leaf = ["-addext", "basicConstraints=CA:FALSE"];
    certificate(folder, "ca", "/CN=ca", &[]);
    let here = ["-addext", "subjectAltName=IP:127.0.0.1"];
    certificate(
        folder,
        "server",
        "/CN=127.0.0.1",
        &[&signed[..], &leaf, &here].concat(),
    );
    let subject = format!("/UID={APP}/CN=Apple Push Services: {APP}");
    certificate(folder, "app", &subject, &[&signed[..], &leaf].concat());
    certificate(
        folder,
        "nobody",
        "/CN=nobody",
        &[&signed[..], &leaf].concat(),
    );
    for name in ["team", "other-team"] {
        key(folder, name, &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    }
    key(
        folder,
        "account",
        &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    );
}

fn certificate(folder: &Path, name: &str, subject: &str, more: &[&str]) {
    let (key, file) = (format!("{name}.key"), format!("{name}.pem"));
    let asked = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        subject,
        "-keyout",
        &key,
        "-out",
        &file,
    ];
    openssl(folder, &[&asked[..], more].concat());
}

fn key(folder: &Path, name: &str, kind: &[&str]) {
    let (private, public) = (format!("{name}.key"), format!("{name}.pub"));
    let asked = ["genpkey", "-out", &private, "-algorithm"];
    openssl(folder, &[&asked[..], kind].concat());
    openssl(
        folder,
        &["pkey", "-in", &private, "-pubout", "-out", &public],
    );
}

fn openssl(folder: &Path, arguments: &[&str]) {
    let done = Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .output();
    let done = done.unwrap_or_else(|_| panic!("no openssl: run tests/run.sh --setup once"));
    assert!(done.status.success(), "{done:?}");
}
