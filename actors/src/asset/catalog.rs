//! Completing the values that name files: their media types, and where to download them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value as Json;
use skytrail_schema::asset::{content_type_or_unknown, edit_assets, see_assets};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::AssetState;
use skytrail_schema::id::AssetName;
use skytrail_schema::record::{Fields, Head, Record};
use skytrail_schema::value::{Asset, Value};

use crate::log::Erasures;
use crate::projector::Applied;
use crate::record::write_model::WriteModel;
use crate::store::RecordStore;

/// Knows where files can be downloaded, for as long as such an address is valid.
pub trait AssetUrls: Send + Sync + 'static {
    /// Returns a fresh address; `None` if there is none.
    fn url_of(&self, name: &str) -> Option<String>;
}

/// What is known of all files. Cheap to clone.
#[derive(Clone)]
pub struct AssetCatalog {
    /// The store: what has been projected.
    pub store: Arc<dyn RecordStore>,
    /// The write model: what is in memory.
    pub model: Arc<WriteModel>,
    /// How far the store is.
    pub applied: Applied,
    /// Where files can be downloaded.
    pub urls: Arc<dyn AssetUrls>,
    /// Which files were erased.
    pub erasures: Arc<Erasures>,
}

impl AssetCatalog {
    /// Loads what is known of files, with the versions of their streams. Unknown and erased files
    /// are left out. A media type that could not be stored today is replaced by the unknown one.
    ///
    /// # Errors
    /// The store failed or does not catch up.
    pub async fn load(
        &self,
        names: &[AssetName],
    ) -> Result<HashMap<AssetName, (u32, AssetState)>, ApiError> {
        if names.is_empty() {
            return Ok(HashMap::new());
        }
        self.applied.wait_for(self.model.position()).await?;
        let known = self.store.load_assets(names).await?;
        let named = names.iter().cloned().zip(known);
        let there = named.filter(|(name, _)| !self.erasures.has_file(name));
        let there = there.filter_map(|(name, known)| {
            let (version, mut state) = known?;
            state.content_type = content_type_or_unknown(state.content_type);
            Some((name, (version, state)))
        });
        Ok(there.collect())
    }

    /// Sets the media types of the files in fields, whatever the fields said.
    ///
    /// # Errors
    /// Those of [`AssetCatalog::load`].
    pub async fn complete<'a>(
        &self,
        fields: impl Iterator<Item = &'a mut Fields>,
    ) -> Result<(), ApiError> {
        let mut values: Vec<&mut Value> = fields.flatten().map(|(_, value)| value).collect();
        let mut names = BTreeSet::new();
        for value in &values {
            value.see_assets(&mut |name| {
                names.insert(AssetName::from(name));
            });
        }
        if names.is_empty() {
            return Ok(());
        }
        let known = self.load(&names.into_iter().collect::<Vec<_>>()).await?;
        for value in &mut values {
            value.edit_assets(&mut |asset| {
                let found = known.get(asset.name.as_str());
                asset.content_type = found.map(|(_, state)| state.content_type.clone());
            });
        }
        Ok(())
    }

    /// Sets the media types and addresses of the files in a wire value; unknown files get neither.
    ///
    /// # Errors
    /// Those of [`AssetCatalog::load`].
    pub async fn complete_json(&self, json: &mut Json) -> Result<(), ApiError> {
        let mut names = BTreeSet::new();
        see_assets(json, &mut |name| {
            names.insert(AssetName::from(name));
        });
        if names.is_empty() {
            return Ok(());
        }
        let known = self.load(&names.into_iter().collect::<Vec<_>>()).await?;
        edit_assets(json, &mut |asset| {
            let found = known.get(asset.name.as_str());
            asset.content_type = found.map(|(_, state)| state.content_type.clone());
            self.sign_asset(asset);
        });
        Ok(())
    }

    /// Sets the addresses of the files in a wire value whose media types were set by
    /// [`AssetCatalog::complete`].
    pub fn sign_json(&self, json: &mut Json) {
        edit_assets(json, &mut |asset| self.sign_asset(asset));
    }

    /// Sets the addresses of the files in a record, for a record on its way out.
    pub fn sign(&self, record: &mut Record) {
        for (_, value) in &mut record.fields {
            value.edit_assets(&mut |asset| self.sign_asset(asset));
        }
    }

    fn sign_asset(&self, asset: &mut Asset) {
        show(asset, &*self.urls);
    }

    /// Does the same as [`AssetCatalog::sign`] for a shared record, which is copied only if it
    /// names files.
    pub fn sign_head(&self, mut head: Arc<Head>) -> Arc<Head> {
        let mut has_assets = false;
        for value in head.record.fields.values() {
            value.see_assets(&mut |_| has_assets = true);
        }
        if has_assets {
            self.sign(&mut Arc::make_mut(&mut head).record);
        }
        head
    }
}

/// Gives a file its address, and a media type that it can be shown with: older records may hold one
/// of any length.
///
/// A file without a media type is not known. It gets no address: a JSON value may name anything,
/// and a bucket holds more than the files that were uploaded here.
fn show(asset: &mut Asset, urls: &dyn AssetUrls) {
    asset.url = asset
        .content_type
        .as_ref()
        .and_then(|_| urls.url_of(&asset.name));
    asset.content_type = asset.content_type.take().map(content_type_or_unknown);
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Urls;

    impl AssetUrls for Urls {
        fn url_of(&self, name: &str) -> Option<String> {
            Some(format!("at/{name}"))
        }
    }

    #[test]
    fn media_types_that_nobody_could_store_today_are_not_shown_and_unknown_files_have_no_address() {
        let long = "x".repeat(256);
        let unknown = Some("application/octet-stream");
        for (stored, shown) in [
            (None, None),
            (Some("text/plain"), Some("text/plain")),
            (Some("a\nb"), unknown),
            (Some(&*long), unknown),
        ] {
            let mut asset = Asset {
                name: "a".to_owned(),
                content_type: stored.map(str::to_owned),
                url: None,
            };
            show(&mut asset, &Urls);
            assert_eq!(asset.content_type.as_deref(), shown);
            assert_eq!(asset.url.as_deref(), stored.and(Some("at/a")));
        }
    }
}
