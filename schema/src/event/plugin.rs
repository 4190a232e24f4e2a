//! What happens to plugins.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// What a plugin has registered, stored whenever that changes. It holds the extension points by
/// kind, one line each, such as `beforeSave note trim` for a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginRegistration {
    /// The lines, by kind of point: `op`, `handler`, `hook`, `timer`, `provider`.
    pub points: BTreeMap<String, BTreeSet<String>>,
}
