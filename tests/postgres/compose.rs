//! docker-compose.yml works, as far as that can be checked without containers.

use std::process::Command;

use crate::support::postgres::shared;
use crate::support::program::{repository, set_up};
use crate::support::server::lasting_address;

#[test]
fn what_the_compose_file_says_works() {
    let database = shared().database(&[]);
    let address = lasting_address();
    let (_, port) = address.rsplit_once(':').unwrap();
    // Debian's Python, which has the package that reads the file.
    let output = Command::new("/usr/bin/python3")
        .arg(repository("tests/postgres/compose.py"))
        .arg(env!("CARGO_BIN_EXE_skytrail"))
        .arg(set_up(".venv/bin/python"))
        .args([&database.url(), port])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let tables = "SELECT count(*) > 0 FROM pg_tables WHERE schemaname = 'app_myapp'";
    assert_eq!(database.sql(tables), "t\n");
}
