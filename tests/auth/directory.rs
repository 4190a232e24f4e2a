//! Debian's LDAP server with a directory in a temporary folder.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use crate::support::eventually;
use crate::support::program::{Program, repository};
use crate::support::server::lasting_address;

const SLAPD: &str = "/usr/sbin/slapd";
const SLAPADD: &str = "/usr/sbin/slapadd";
pub const BASE: &str = "dc=example,dc=org";
pub const SERVICE: &str = "cn=service,dc=example,dc=org";
pub const SERVICE_PASSWORD: &str = "password-of-the-service";
const ADMIN: &str = "cn=admin,dc=example,dc=org";
const ADMIN_PASSWORD: &str = "password-of-the-admin";

/// A directory with the people of `people.ldif`.
pub struct Directory {
    folder: tempfile::TempDir,
    address: String,
    process: Option<Program>,
}

impl Directory {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        make_certificates(folder.path());
        std::fs::create_dir(folder.path().join("db")).unwrap();
        std::fs::write(folder.path().join("slapd.conf"), settings(folder.path())).unwrap();
        let mut directory = Self {
            folder,
            address: lasting_address(),
            process: None,
        };
        let mut fill = Command::new(SLAPADD);
        fill.arg("-l").arg(repository("tests/auth/people.ldif"));
        directory.run(&mut fill);
        directory.start_again();
        directory
    }

    pub fn start_again(&mut self) {
        let mut server = Command::new(SLAPD);
        // With a debug level it stays in the foreground.
        server.args(["-d", "0", "-h", &self.url(), "-f"]);
        server.arg(self.path("slapd.conf"));
        self.process = Some(Program::start(&mut server));
        eventually("the directory listens", || {
            TcpStream::connect(&self.address).ok()
        });
    }

    pub fn stop(&mut self) {
        self.process = None;
    }

    pub fn url(&self) -> String {
        format!("ldap://{}", self.address)
    }

    /// Returns the path of a file in the directory's folder.
    pub fn path(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        path.to_str().unwrap().to_owned()
    }

    /// Applies changes in LDIF.
    pub fn change(&self, ldif: &str) {
        let file = self.path("change.ldif");
        std::fs::write(&file, ldif).unwrap();
        let mut change = Command::new("ldapmodify");
        change.args(["-x", "-H", &self.url(), "-D", ADMIN, "-w", ADMIN_PASSWORD]);
        let done = change.args(["-f", &file]).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    fn run(&self, command: &mut Command) {
        command.arg("-f").arg(self.path("slapd.conf"));
        let done = command.output();
        let done = done.unwrap_or_else(|_| panic!("no slapd: run tests/run.sh --setup once"));
        assert!(done.status.success(), "{done:?}");
    }
}

/// Returns the directory's configuration.
///
/// The directory treats a bind without a password as anonymous, and answers with success, which a
/// plugin must not mistake for a login. It refers searches for `ou=away` to another server.
fn settings(folder: &Path) -> String {
    let folder = folder.to_str().unwrap();
    format!(
        "include /etc/ldap/schema/core.schema\n\
         include /etc/ldap/schema/cosine.schema\n\
         include /etc/ldap/schema/inetorgperson.schema\n\
         modulepath /usr/lib/ldap\n\
         moduleload back_mdb\n\
         pidfile {folder}/slapd.pid\n\
         allow bind_anon_cred\n\
         TLSCACertificateFile {folder}/ca.pem\n\
         TLSCertificateFile {folder}/server.pem\n\
         TLSCertificateKeyFile {folder}/server.key\n\
         database mdb\n\
         suffix \"{BASE}\"\n\
         rootdn \"{ADMIN}\"\n\
         rootpw {ADMIN_PASSWORD}\n\
         directory {folder}/db\n\
         access to attrs=userPassword by anonymous auth by * none\n\
         access to * by dn.exact=\"{SERVICE}\" read by * none\n"
    )
}

/// Creates a certificate for this machine, the authority that signed it, and another authority.
fn make_certificates(folder: &Path) {
    for name in ["ca", "stranger"] {
        let subject = format!("/CN={name}");
        let (key, file) = (format!("{name}.key"), format!("{name}.pem"));
        openssl(
            folder,
            &[
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", &subject,
                "-keyout", &key, "-out", &file,
            ],
        );
    }
    openssl(
        folder,
        &[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=CA:FALSE",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-keyout",
            "server.key",
            "-out",
            "server.pem",
        ],
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
