//! An attempt, with the buckets that it takes from.

use serde_json::json;

use super::bucket::Kind;

/// The key of a bucket; it has this size however long the name that is tried.
pub(super) type Key = [u8; 32];

/// The buckets that an attempt takes from, or has taken from. The default takes from none.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    pub(super) buckets: Vec<(Kind, Key)>,
    /// Identifies the password that is tried.
    pub(super) guess: Option<Key>,
    /// Whether it took nothing, so that nothing can be given back.
    pub(super) is_free: bool,
    /// Whether others wait for its outcome.
    pub(super) is_awaited: bool,
}

impl Attempt {
    /// An attempt from an address.
    pub fn at(address: &str) -> Self {
        Self::from_buckets(vec![(Kind::Address, key_of(&["address", address]))])
    }

    /// An attempt on an account from an address, whether or not the account exists.
    pub fn on(account: &str, address: &str) -> Self {
        let mut attempt = Self::at(address);
        let pair = (Kind::Pair, key_of(&["pair", address, account]));
        let account = Self::on_from_anywhere(account);
        attempt.buckets.push(pair);
        attempt.buckets.extend(account.buckets);
        attempt
    }

    /// An attempt on an account; the address is not known.
    pub fn on_from_anywhere(account: &str) -> Self {
        Self::from_buckets(vec![(Kind::Account, key_of(&["account", account]))])
    }

    /// The same attempt, whose guess is this password.
    #[must_use]
    pub fn guessing(mut self, password: &str) -> Self {
        self.guess = Some(key_of(&["guess", password]));
        self
    }

    /// The same attempt as a sign-up. A sign-up with a name guesses which names are taken; an
    /// anonymous one guesses nothing, and starts from the default.
    #[must_use]
    pub fn signing_up(mut self, address: &str) -> Self {
        let sign_ups = (Kind::SignUps, key_of(&["sign-ups", address]));
        self.buckets.push(sign_ups);
        self
    }

    /// A save that gives a user another name. It is a guess only if the name is taken.
    pub fn renaming(address: &str) -> Self {
        let mut attempt = Self::at(address);
        let renames = (Kind::SignUps, key_of(&["renames", address]));
        attempt.buckets.push(renames);
        attempt
    }

    /// A reset of a user's password; the address is not known.
    pub fn reset_of(user: &str) -> Self {
        Self::from_buckets(vec![(Kind::Address, key_of(&["reset", user]))])
    }

    fn from_buckets(buckets: Vec<(Kind, Key)>) -> Self {
        Self {
            buckets,
            ..Self::default()
        }
    }

    pub(super) fn pair(&self) -> Option<Key> {
        self.key_of(Kind::Pair)
    }

    pub(super) fn key_of(&self, kind: Kind) -> Option<Key> {
        let found = self.buckets.iter().find(|(it, _)| *it == kind);
        found.map(|(_, key)| *key)
    }
}

/// Returns the key of a bucket; the parts are separated unambiguously.
fn key_of(parts: &[&str]) -> Key {
    *blake3::hash(json!(parts).to_string().as_bytes()).as_bytes()
}
