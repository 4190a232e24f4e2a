use super::*;
use crate::log::disk::Disk as _;
use crate::testkit::disk::{Faults, MemoryDisk};

/// The highest key in use in a log in which nothing is sealed.
fn unused(_: KeySearch) -> u64 {
    0
}

fn subjects(names: &[&str]) -> BTreeSet<UserId> {
    names.iter().map(|name| UserId::from(*name)).collect()
}

fn key_of(ring: &Keyring, name: &str) -> (u64, SubjectKey) {
    let pending = subjects(&[name]);
    ring.make(&pending).unwrap();
    let found = ring.find(&pending).unwrap().unwrap();
    found.into_values().next().unwrap()
}

#[test]
fn a_key_is_the_same_until_it_is_destroyed_and_never_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = Uuid::new_v4();
    let ring = Keyring::open(folder.path(), store, unused).unwrap();
    assert_eq!(ring.find(&subjects(&["ada"])).unwrap(), None);
    let (ada, bob) = (key_of(&ring, "ada"), key_of(&ring, "bob"));
    assert_eq!((ada.0, bob.0), (1, 2));
    assert_ne!(ada.1, bob.1);
    let before = KeyringCopy::read(folder.path()).unwrap();
    drop(ring);
    let ring = Keyring::open(folder.path(), store, unused).unwrap();
    assert_eq!(key_of(&ring, "ada"), ada);

    ring.destroy(&[ada.0, 99]).unwrap();
    assert_eq!(ring.state(ada.0), KeyState::Destroyed);
    assert_eq!(ring.state(bob.0), KeyState::Live(bob.1.clone()));
    assert_eq!(ring.state(3), KeyState::Missing);
    let bytes = std::fs::read(folder.path().join(KEYRING_FILE)).unwrap();
    assert!(!bytes.windows(32).any(|part| part == ada.1.0));
    // The same user gets another key.
    assert_eq!(key_of(&ring, "ada").0, 3);
    drop(ring);
    let ring = Keyring::open(folder.path(), store, unused).unwrap();
    assert_eq!(ring.state(ada.0), KeyState::Destroyed);
    assert_eq!(ring.number_of(&"ada".into()), Some(3));

    let after = KeyringCopy::read(folder.path()).unwrap();
    assert_eq!(after.state(ada.0), KeyState::Destroyed);
    assert_eq!(after.with(before).state(ada.0), KeyState::Live(ada.1));
}

fn file_on(disk: &MemoryDisk) -> Arc<dyn DiskFile> {
    let file = disk.create(KEYRING_FILE);
    let file = file.or_else(|_| disk.open(KEYRING_FILE)).unwrap();
    disk.sync_folder().unwrap();
    file
}

#[test]
fn keys_that_a_start_has_outlive_a_power_cut() {
    let (disk, store) = (MemoryDisk::default(), Uuid::new_v4());
    let ring = Keyring::of(file_on(&disk), store, unused).unwrap();
    let ada = key_of(&ring, "ada");
    drop(ring);
    // As if a process had ended between writing two more keys and flushing them.
    for (number, subject) in (2..).zip([[1; 24], [2; 24]]) {
        let back = u16::try_from(number - 2).unwrap();
        let slot = Slot::Live(subject, SubjectKey([3; 32])).encode(number, back);
        file_on(&disk).write_at(&slot, offset(number)).unwrap();
    }
    let ring = Keyring::of(file_on(&disk), store, unused).unwrap();
    let after = disk.lose_power(|_| false);
    let after = Keyring::of(file_on(&after), store, unused).unwrap();
    assert_eq!(after.state(1), KeyState::Live(ada.1));
    for number in [2, 3] {
        assert_ne!(ring.state(number), KeyState::Missing);
        assert_eq!(after.state(number), ring.state(number));
    }
}

#[test]
fn a_key_whose_destruction_was_not_flushed_is_destroyed_again() {
    let (disk, store) = (MemoryDisk::default(), Uuid::new_v4());
    let ring = Keyring::of(file_on(&disk), store, unused).unwrap();
    let (number, _) = key_of(&ring, "ada");
    disk.set_faults(Faults {
        sync_fails: true,
        ..Faults::default()
    });
    assert!(ring.destroy(&[number]).is_err());
    disk.set_faults(Faults::default());
    ring.destroy(&[number]).unwrap();
    let after = disk.lose_power(|_| false);
    let after = Keyring::of(file_on(&after), store, unused).unwrap();
    assert_eq!(after.state(number), KeyState::Destroyed);
}

#[test]
fn those_who_come_while_keys_are_made_share_the_next_flush() {
    let folder = tempfile::tempdir().unwrap();
    let ring = Keyring::open(folder.path(), Uuid::new_v4(), unused).unwrap();
    ring.make(&subjects(&["first"])).unwrap();
    let names: Vec<String> = (0..16).map(|number| format!("user-{number}")).collect();
    std::thread::scope(|scope| {
        let running = ring.adding.lock();
        for pair in names.windows(2) {
            let ring = &ring;
            scope.spawn(move || ring.make(&subjects(&[&pair[0], &pair[1]])).unwrap());
        }
        while ring.table.lock().pending.len() < names.len() {
            std::thread::yield_now();
        }
        // Existing keys are available meanwhile.
        assert!(ring.find(&subjects(&["first"])).unwrap().is_some());
        assert_eq!(ring.find(&subjects(&["user-7"])).unwrap(), None);
        drop(running);
    });
    let bytes = std::fs::read(folder.path().join(KEYRING_FILE)).unwrap();
    let slots = bytes.chunks(SLOT_BYTES).zip(0..).skip(1);
    let backs: Vec<u16> = slots
        .map(|(slot, number)| Slot::decode(slot, number).unwrap().1)
        .collect();
    let expected: Vec<u16> = [0].into_iter().chain(0..16).collect();
    assert_eq!(backs, expected);
    for name in &names {
        assert!(ring.find(&subjects(&[name])).unwrap().is_some());
    }
}

#[test]
fn more_than_a_batch_is_made_in_batches() {
    let folder = tempfile::tempdir().unwrap();
    let ring = Keyring::open(folder.path(), Uuid::new_v4(), unused).unwrap();
    let names: Vec<String> = (0..=MAX_BATCH).map(|number| number.to_string()).collect();
    let names: BTreeSet<UserId> = names.iter().map(|name| name.as_str().into()).collect();
    ring.make(&names).unwrap();
    assert_eq!(ring.find(&names).unwrap().unwrap().len(), names.len());
}

#[test]
fn any_part_of_a_batch_that_was_being_added_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let store = Uuid::new_v4();
    let path = folder.path().join(KEYRING_FILE);
    let ring = Keyring::open(folder.path(), store, unused).unwrap();
    let durable = key_of(&ring, "durable");
    ring.make(&subjects(&["a", "b", "c", "d"])).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for kept in 0..15_u8 {
        let mut torn = whole.clone();
        for number in (0..4).filter(|number| kept >> number & 1 == 0) {
            torn[(number + 2) * SLOT_BYTES..][..SLOT_BYTES].fill(0);
        }
        std::fs::write(&path, &torn).unwrap();
        let num_whole = 1 + u64::from(kept.trailing_ones());
        let ring = Keyring::open(folder.path(), store, unused).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().len(),
            offset(num_whole + 1)
        );
        assert_eq!(key_of(&ring, "durable"), durable);
        assert_eq!(key_of(&ring, "e").0, num_whole + 1);
    }
    // A missing slot that was durable before its batch is damage.
    let mut lost = whole;
    lost[SLOT_BYTES..2 * SLOT_BYTES].fill(0);
    std::fs::write(&path, &lost).unwrap();
    let refused = Keyring::open(folder.path(), store, unused).err().unwrap();
    assert!(matches!(refused, KeyringError::Damaged(1)));
}

#[test]
fn what_was_being_added_is_cut_and_damage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Uuid::new_v4();
    let path = folder.path().join(KEYRING_FILE);
    let ring = Keyring::open(folder.path(), store, unused).unwrap();
    ring.make(&subjects(&["a", "b", "c"])).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for torn in 1..SLOT_BYTES {
        std::fs::write(&path, &whole[..whole.len() - torn]).unwrap();
        let ring = Keyring::open(folder.path(), store, unused).unwrap();
        assert_eq!(ring.state(3), KeyState::Missing, "{torn}");
        assert_eq!(key_of(&ring, "d").0, 3);
    }
    for bit in (SLOT_BYTES * 8)..(SLOT_BYTES * 3 * 8) {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &flipped).unwrap();
        let refused = Keyring::open(folder.path(), store, unused).err().unwrap();
        assert!(matches!(refused, KeyringError::Damaged(1 | 2)), "{bit}");
        assert!(KeyringCopy::read(folder.path()).is_err());
    }
    std::fs::write(&path, &whole).unwrap();
    let other = Keyring::open(folder.path(), Uuid::new_v4(), unused);
    assert!(matches!(other, Err(KeyringError::Foreign)));
}

#[test]
fn a_file_without_a_key_becomes_that_of_the_log_that_is_made() {
    let folder = tempfile::tempdir().unwrap();
    drop(Keyring::open(folder.path(), Uuid::new_v4(), unused).unwrap());
    let store = Uuid::new_v4();
    let ring = Keyring::open(folder.path(), store, unused).unwrap();
    let key = key_of(&ring, "a");
    drop(ring);
    let ring = Keyring::open(folder.path(), store, unused).unwrap();
    assert_eq!(key_of(&ring, "a"), key);
    // A log that is sealed with keys has lost them.
    let folder = tempfile::tempdir().unwrap();
    drop(Keyring::open(folder.path(), Uuid::new_v4(), unused).unwrap());
    let lost = Keyring::open(folder.path(), store, |_| 1);
    assert!(matches!(lost, Err(KeyringError::Lost { has: 0, used: 1 })));
}
