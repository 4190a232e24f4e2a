//! Forgetting devices that cannot be reached, or no longer.

use std::time::Duration;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{EventBody, Stream};
use skytrail_schema::time::Timestamp;

use super::Devices;
use crate::context::RequestContext;
use crate::log::ConflictKey;
use crate::record::attempt::{Outcome, retry_on_conflict};
use crate::record::decide::Plan;

/// A device without an address at a push service is kept for this long after it was registered.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How many devices one commit forgets.
const BATCH_SIZE: u32 = 256;

impl Devices {
    /// Forgets the devices without an address that were registered more than a day ago. Returns how
    /// many there were.
    ///
    /// # Errors
    /// The store or the log failed; the devices forgotten before that stay forgotten.
    pub async fn forget_unreachable(&self) -> Result<usize, ApiError> {
        let kept = i64::try_from(KEPT.as_micros()).unwrap_or(i64::MAX);
        let before = Timestamp::from_micros(self.env.clock.now().micros().saturating_sub(kept));
        let mut num_forgotten = 0;
        loop {
            let num_now = retry_on_conflict(Some(&self.turn), |_| self.forget_some(before)).await?;
            num_forgotten += num_now;
            if num_now == 0 {
                return Ok(num_forgotten);
            }
        }
    }

    /// Forgets the devices with an address that have not been registered since `before`.
    pub(super) async fn forget_at(
        &self,
        token: &str,
        before: Timestamp,
    ) -> Result<Outcome<usize>, ApiError> {
        let context = RequestContext::system();
        let read_position = self.read_position().await?;
        let touch = self.touch(&context);
        let mut plan = Plan::default();
        // A registration with this address is committed before or after this, not in between.
        let key = ConflictKey::device_token(token);
        plan.reads.insert(key);
        plan.writes.insert(key);
        for id in self.store.find_devices(token).await? {
            if let Some((version, state)) = self.load(&id).await?
                && state.registered_at < before
            {
                let body = EventBody::DeviceDeleted(touch.clone());
                plan.push(Stream::Device(id), version + 1, body);
            }
        }
        self.forget(plan, read_position, &context).await
    }

    async fn forget_some(&self, before: Timestamp) -> Result<Outcome<usize>, ApiError> {
        let context = RequestContext::system();
        let read_position = self.read_position().await?;
        let mut plan = Plan::default();
        let touch = self.touch(&context);
        for id in self.store.list_unreachable(before, BATCH_SIZE).await? {
            if let Some((version, _)) = self.load(&id).await? {
                let body = EventBody::DeviceDeleted(touch.clone());
                plan.push(Stream::Device(id), version + 1, body);
            }
        }
        self.forget(plan, read_position, &context).await
    }

    async fn forget(
        &self,
        plan: Plan,
        read_position: u64,
        context: &RequestContext,
    ) -> Result<Outcome<usize>, ApiError> {
        let num_devices = plan.events.len();
        if num_devices == 0 {
            return Ok(Outcome::Done(0));
        }
        Ok(match self.commit(plan, read_position, context).await? {
            Outcome::Done(()) => Outcome::Done(num_devices),
            Outcome::Conflict => Outcome::Conflict,
        })
    }
}
