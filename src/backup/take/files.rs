//! Saves what is stored by its content: files that records refer to, the ops store's copy, keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Work;
use crate::backup::BackupError;
use crate::backup::local::{Digesting, LocalFile, OpenFile};
use crate::backup::manifest::{Manifest, SavedFile};
use crate::backup::object::{FILES, content};

impl Work<'_> {
    pub(super) fn save_files(
        &mut self,
        last: Option<&Manifest>,
    ) -> Result<Vec<Arc<SavedFile>>, BackupError> {
        let there = self.repository.list(FILES)?.into_iter();
        let mut there: BTreeMap<String, u64> =
            there.map(|object| (object.name, object.size)).collect();
        let last = last.into_iter().flat_map(|last| &last.files);
        let last: BTreeMap<&str, &Arc<SavedFile>> =
            last.map(|file| (file.path.as_str(), file)).collect();
        let mut saved = Vec::new();
        for file in self.local.files()? {
            match self.save_file(&file, last.get(&*file.path).copied(), &mut there) {
                Ok(file) => saved.push(file),
                // The file was listed, but has been deleted since.
                Err(BackupError::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(saved)
    }

    fn save_file(
        &mut self,
        file: &LocalFile,
        last: Option<&Arc<SavedFile>>,
        there: &mut BTreeMap<String, u64>,
    ) -> Result<Arc<SavedFile>, BackupError> {
        let failed = || BackupError::io(file.place.display().to_string());
        let mut open = OpenFile::open(&file.place, file.piece).map_err(failed())?;
        let (size, modified) = (open.size, open.modified);
        if let Some(last) = last
            && file.is_kept
            && (last.size, last.modified) == (size, Some(modified))
            && there.get(&content(&last.blake3)) == Some(&size)
        {
            return Ok(Arc::clone(last));
        }
        let blake3 = open.digest().map_err(failed())?.to_hex().to_string();
        let object = content(&blake3);
        // An object of another size is damaged.
        if there.get(&object) != Some(&size) {
            let mut reading = Digesting::new(open);
            self.repository.put(&object, &mut reading)?;
            if reading.digest() != blake3 {
                self.repository.remove(&object)?;
                let place = file.place.display();
                return Err(BackupError::Refused(format!(
                    "{place} changed while it was copied"
                )));
            }
            let earlier = self.last_copied.replace(file.path.clone());
            self.num_copied_files += usize::from(earlier.as_ref() != Some(&file.path));
            self.copied(reading.size);
            there.insert(object, size);
        }
        Ok(Arc::new(SavedFile {
            path: file.path.clone(),
            size,
            blake3,
            modified: file.is_kept.then_some(modified),
        }))
    }
}
