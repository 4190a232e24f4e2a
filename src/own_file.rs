//! Files that a command writes in addition to its result: reports, and results that go into a file.
//!
//! One rule holds for all of them: such a file is created new. An existing file is written only if
//! it is empty or not a regular file, such as `/dev/null` or a pipe: then nothing is lost. A
//! command that continues a file first makes sure that the file is its own. Only its owner can read a
//! new file: it can hold anybody's data.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Opens a file for writing from its beginning, if nothing is lost by that.
///
/// # Errors
/// The file is not empty, or cannot be created; the message names it.
pub(crate) fn begin(path: &Path) -> Result<File, Error> {
    let named = |error: Error| Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut options = File::options();
    let options = options.create(true).write(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(named)?;
    let about = file.metadata().map_err(named)?;
    if about.is_file() && about.len() > 0 {
        let message = "the file exists and is not empty: name another one, or remove it";
        return Err(named(Error::new(ErrorKind::AlreadyExists, message)));
    }
    Ok(file)
}
