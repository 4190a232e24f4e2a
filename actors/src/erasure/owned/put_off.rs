//! Types of which no record can be erased at present: a plugin is not connected, or does not answer.
//!
//! For each record, such a plugin would take its time again. After a failure the type is left alone
//! for a while, whoever owns the records. Then one record is tried; if it succeeds, all are.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::TypeName;
use tokio::time::Instant;

use super::PAUSES;

/// See the module's overview.
#[derive(Debug, Default)]
pub(in crate::erasure) struct PutOffTypes(Mutex<BTreeMap<TypeName, PutOff>>);

#[derive(Debug)]
struct PutOff {
    error: ApiError,
    until: Instant,
    /// How long the type is left alone after the next failure.
    pause: Duration,
    is_tried: bool,
}

/// The attempt to erase a record.
pub(super) struct Trial<'a> {
    types: &'a PutOffTypes,
    name: &'a TypeName,
    /// Whether nobody else tries a record of the type meanwhile.
    is_only_one: bool,
}

impl PutOffTypes {
    /// Begins an attempt.
    ///
    /// # Errors
    /// The type is put off; this is why.
    pub(super) fn begin<'a>(
        &'a self,
        name: &'a TypeName,
        now: Instant,
    ) -> Result<Trial<'a>, ApiError> {
        let mut types = self.0.lock();
        let put_off = types.get_mut(name);
        let is_only_one = put_off.is_some();
        if let Some(put_off) = put_off {
            if put_off.is_tried || now < put_off.until {
                return Err(put_off.error.clone());
            }
            put_off.is_tried = true;
        }
        Ok(Trial {
            types: self,
            name,
            is_only_one,
        })
    }
}

impl Trial<'_> {
    /// Puts the type off.
    pub(super) fn failed(self, error: &ApiError, now: Instant) {
        let mut types = self.types.0.lock();
        let before = types.get(self.name);
        // Others that were under way already may fail, too.
        let is_again = self.is_only_one && before.is_some();
        let pause = match before {
            Some(before) if is_again => (before.pause * 2).min(PAUSES.1),
            Some(before) => before.pause,
            None => PAUSES.0,
        };
        let put_off = PutOff {
            error: error.clone(),
            until: now + pause,
            pause,
            is_tried: false,
        };
        types.insert(self.name.clone(), put_off);
    }

    /// Whoever owns the records can go on.
    pub(super) fn succeeded(self) {
        self.types.0.lock().remove(self.name);
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if self.is_only_one
            && let Some(put_off) = self.types.0.lock().get_mut(self.name)
        {
            put_off.is_tried = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_tried(types: &PutOffTypes, name: &TypeName, now: Instant) -> bool {
        types.begin(name, now).is_ok()
    }

    #[test]
    fn one_record_of_a_type_that_fails_is_tried_ever_more_rarely() {
        let (types, note) = (PutOffTypes::default(), TypeName::from("note"));
        let (mut now, failed) = (Instant::now(), ApiError::unexpected("no answer"));
        let others = [(), ()].map(|()| types.begin(&note, now).unwrap());
        for other in others {
            other.failed(&failed, now);
        }
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            now += Duration::from_secs(seconds) - Duration::from_millis(1);
            assert!(!is_tried(&types, &note, now), "{seconds}");
            assert!(is_tried(&types, &TypeName::from("room"), now));
            now += Duration::from_millis(1);
            let trial = types.begin(&note, now).unwrap();
            assert!(!is_tried(&types, &note, now));
            trial.failed(&failed, now);
        }
        now += PAUSES.1;
        // One that is given up says nothing.
        drop(types.begin(&note, now).unwrap());
        types.begin(&note, now).unwrap().succeeded();
        let both = (types.begin(&note, now), types.begin(&note, now));
        assert!(both.0.is_ok() && both.1.is_ok());
    }
}
