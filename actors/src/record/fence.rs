//! Whose writes wait while something is decided that every one of them would spoil.

use std::collections::BTreeMap;
use std::sync::Arc;

use skytrail_schema::id::UserId;
use tokio::sync::watch;

/// Users in whose name nothing new is decided, with how many hold each of them up. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct WriterFence(Arc<watch::Sender<BTreeMap<UserId, usize>>>);

/// Holds up a user's writes until it is dropped.
#[derive(Debug)]
pub struct HeldUp {
    fence: WriterFence,
    user: UserId,
}

impl WriterFence {
    /// Holds up what has not been decided yet in a user's name.
    pub fn hold_up(&self, user: &UserId) -> HeldUp {
        self.0
            .send_modify(|held| *held.entry(user.clone()).or_default() += 1);
        HeldUp {
            fence: self.clone(),
            user: user.clone(),
        }
    }

    /// Waits until nobody holds up a user's writes.
    pub async fn pass(&self, user: &UserId) {
        if self.0.borrow().contains_key(user) {
            // The sender lives as long as this.
            let mut held = self.0.subscribe();
            let _ = held.wait_for(|held| !held.contains_key(user)).await;
        }
    }
}

impl Drop for HeldUp {
    fn drop(&mut self) {
        self.fence.0.send_modify(|held| {
            if let Some(count) = held.get_mut(&self.user) {
                *count -= 1;
                if *count == 0 {
                    held.remove(&self.user);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_user_passes_when_nobody_holds_him_up_any_more() {
        let (fence, [ada, bob]) = (WriterFence::default(), ["ada", "bob"].map(UserId::from));
        let passes = async |user: &UserId| {
            let hour = std::time::Duration::from_secs(3600);
            tokio::time::timeout(hour, fence.pass(user)).await.is_ok()
        };
        let (first, second) = (fence.hold_up(&ada), fence.hold_up(&ada));
        assert!(passes(&bob).await);
        assert!(!passes(&ada).await);
        drop(first);
        assert!(!passes(&ada).await);
        drop(second);
        assert!(passes(&ada).await);
        let third = fence.hold_up(&ada);
        let waits = fence.clone();
        let waits = tokio::spawn(async move { waits.pass(&UserId::from("ada")).await });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        drop(third);
        waits.await.unwrap();
    }
}
