//! `push:user`, `push:device`: nothing sends yet, so the check before them refuses every request.

use super::{Call, Outcome};
use crate::http::checks::push_not_configured;

pub(super) async fn run(_: Call) -> Outcome {
    Err(push_not_configured())
}
