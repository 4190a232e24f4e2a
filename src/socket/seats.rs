//! Limits the number of sockets: in total, and per address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::json;
use skytrail_schema::code::ApiError;

use crate::http::remote::host_of;

/// When a refused client can try again.
const RETRY_AFTER_MS: u64 = 5000;

/// The open sockets, and their limits.
#[derive(Debug)]
pub struct Seats {
    max: usize,
    /// `None` means no limit.
    max_per_address: Option<usize>,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    num: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A socket's seat; given back when dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Arc<Seats>,
    address: Option<IpAddr>,
}

impl Seats {
    /// Allows this many sockets.
    pub fn new(max: usize, max_per_address: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            max,
            max_per_address,
            taken: Mutex::default(),
        })
    }

    /// Takes a seat for a client; its address counts if known.
    ///
    /// # Errors
    /// 503 if all seats are taken, 429 if the address has as many as allowed.
    pub fn take(self: &Arc<Self>, client: Option<IpAddr>) -> Result<Seat, ApiError> {
        let address = client.map(host_of);
        let mut taken = self.taken.lock();
        if taken.num >= self.max {
            return Err(refused("there are too many sockets", 503));
        }
        if let (Some(address), Some(max)) = (address, self.max_per_address) {
            let of_address = taken.by_address.entry(address).or_default();
            if *of_address >= max {
                let message = "this address has too many sockets";
                return Err(refused(message, 429));
            }
            *of_address += 1;
        }
        taken.num += 1;
        Ok(Seat {
            seats: Arc::clone(self),
            address,
        })
    }
}

fn refused(message: &str, status: u16) -> ApiError {
    let refused = ApiError::unexpected(message).with_status(status);
    refused.with_info("retry_after_ms", json!(RETRY_AFTER_MS))
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock();
        taken.num -= 1;
        let Some(address) = self.address else { return };
        if let Some(of_address) = taken.by_address.get_mut(&address) {
            *of_address -= 1;
            if *of_address == 0 {
                taken.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Take(u8),
        Leave(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u8..3).prop_map(Step::Take),
            any::<usize>().prop_map(Step::Leave)
        ]
    }

    #[test]
    fn a_client_may_have_any_address_of_its_network() {
        let seats = Seats::new(9, Some(1));
        let take = |address: &str| seats.take(Some(address.parse().unwrap()));
        let first = take("2001:db8:0:1::1").unwrap();
        assert_eq!(take("2001:db8:0:1:ffff::2").unwrap_err().status(), 429);
        assert!(take("2001:db8:0:2::1").is_ok());
        drop(first);
        assert!(take("2001:db8:0:1::2").is_ok());
    }

    proptest! {
        #[test]
        fn a_place_is_given_as_long_as_there_is_one(steps in prop::collection::vec(step(), 0..80)) {
            let seats = Seats::new(5, Some(2));
            let mut open: Vec<(u8, Seat)> = Vec::new();
            for step in steps {
                match step {
                    Step::Take(host) => {
                        let num = open.iter().filter(|(it, _)| *it == host).count();
                        let taken = seats.take(Some(IpAddr::from([10, 0, 0, host])));
                        let status = taken.as_ref().map_or_else(ApiError::status, |_| 200);
                        let expected = if open.len() == 5 { 503 } else if num == 2 { 429 } else { 200 };
                        prop_assert_eq!(status, expected);
                        open.extend(taken.ok().map(|seat| (host, seat)));
                    }
                    Step::Leave(at) if !open.is_empty() => drop(open.swap_remove(at % open.len())),
                    Step::Leave(_) => {}
                }
            }
            open.clear();
            let taken = seats.taken.lock();
            prop_assert!(taken.num == 0 && taken.by_address.is_empty());
        }
    }
}
