//! Files that a command makes beside its result: reports, and results that go into a file.
//!
//! One rule for all of them: such a file is made new. One that is there is written only if it is empty, or
//! no regular file, such as `/dev/null` or a pipe: then nothing is lost. Who goes on with a file makes sure
//! first that it is his own.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::path::Path;

/// Opens a file to be written from its beginning, where nothing is lost by that.
///
/// # Errors
/// Something is in it, or it cannot be made; the message names the file.
pub(crate) fn begin(path: &Path) -> Result<File, Error> {
    let named = |error: Error| Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut options = File::options();
    let options = options.create(true).write(true).truncate(false);
    let file = options.open(path).map_err(named)?;
    let about = file.metadata().map_err(named)?;
    if about.is_file() && about.len() > 0 {
        let message = "the file exists and is not empty: name another one, or remove it";
        return Err(named(Error::new(ErrorKind::AlreadyExists, message)));
    }
    Ok(file)
}
