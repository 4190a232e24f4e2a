//! Random steps: whatever happens, every task ends, in its stream's order.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;

/// What can happen.
#[derive(Clone, Debug)]
enum Step {
    /// An event is committed and read.
    Load { of: usize, hooks: Vec<bool> },
    /// A later event is loaded before those in between.
    LoadAhead { of: usize },
    /// As many tasks start as fit into the window.
    Start { window: usize },
    /// A task in progress is acknowledged.
    Finish(usize),
    /// A task in progress fails.
    Fail(usize),
    /// A task in progress did not reach the consumer.
    Postpone(usize),
    /// Time passes.
    Wait(u64),
    /// The cursor is saved.
    Save,
    /// The process dies and restarts from what was saved.
    Crash,
    /// An operator wants an event again.
    Reopen(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_usize, prop::collection::vec(any::<bool>(), 0..3))
            .prop_map(|(of, hooks)| Step::Load { of, hooks }),
        1 => (3..5_usize).prop_map(|of| Step::LoadAhead { of }),
        6 => (0..5_usize).prop_map(|window| Step::Start { window }),
        5 => any::<usize>().prop_map(Step::Finish),
        2 => any::<usize>().prop_map(Step::Fail),
        1 => any::<usize>().prop_map(Step::Postpone),
        2 => (1..4_u64).prop_map(Step::Wait),
        2 => Just(Step::Save),
        1 => Just(Step::Crash),
        1 => any::<usize>().prop_map(Step::Reopen),
    ]
}

type Name = (u64, Arc<str>);

struct Game {
    schedule: Schedule,
    now: Moment,
    log: BTreeMap<u64, Arrival>,
    /// The events that nothing needs to wait for.
    held_back: BTreeSet<u64>,
    /// What is done: as the process knows it, and as it was when the cursor was saved.
    over: BTreeSet<Name>,
    saved: (Cursor, BTreeSet<Name>),
    running: Vec<Start>,
    attempts: HashMap<Name, u32>,
}

impl Game {
    fn new() -> Self {
        Self {
            schedule: schedule(),
            now: SECOND,
            log: BTreeMap::new(),
            held_back: BTreeSet::new(),
            over: BTreeSet::new(),
            saved: (Cursor::default(), BTreeSet::new()),
            running: Vec::new(),
            attempts: HashMap::new(),
        }
    }

    /// Reads what the log has and the schedule lacks.
    fn read(&mut self) {
        while let Some(position) = self.schedule.next_unread() {
            self.schedule.load(self.log[&position].clone());
            assert_ne!(self.schedule.next_unread(), Some(position));
        }
        let (from, end) = (self.schedule.read(), self.log.keys().last());
        for (_, arrival) in self.log.range(from + 1..) {
            self.schedule.load(arrival.clone());
        }
        self.schedule.advance(end.copied().unwrap_or(0));
    }

    fn commit(&mut self, of: usize, hooks: &[bool]) -> u64 {
        let position = self.log.keys().last().map_or(1, |last| last + 1);
        let hooks: Vec<_> = ["x", "y", "z"]
            .into_iter()
            .zip(hooks.iter().copied())
            .collect();
        self.log.insert(position, arrival(position, of, &hooks));
        position
    }

    fn name_of(&self, id: TaskId) -> Name {
        let hook = self.running.iter().find(|start| start.task == id);
        (id.position, Arc::clone(&hook.unwrap().hook))
    }

    fn start(&mut self, window: usize) {
        self.read();
        while let Some(start) = self.schedule.next(self.now, window) {
            let name = (start.task.position, Arc::clone(&start.hook));
            assert!(!self.over.contains(&name), "{name:?} comes again");
            let attempts = self.attempts.entry(name).or_default();
            *attempts += 1;
            assert!(start.attempt <= MAX_ATTEMPTS);
            let own = &self.log[&start.task.position];
            for (position, earlier) in self.log.range(..start.task.position) {
                let is_same = earlier.stream == own.stream;
                for (hook, _) in earlier.hooks.iter().filter(|_| is_same) {
                    let earlier = (*position, Arc::clone(hook));
                    assert!(self.over.contains(&earlier), "{start:?} before {earlier:?}");
                }
            }
            for other in &self.running {
                let is_other = other.task.position != start.task.position;
                let other = &self.log[&other.task.position];
                assert!(!is_other || other.stream != own.stream, "two of a record");
            }
            self.running.push(start);
            assert!(self.running.len() <= window);
        }
    }

    fn take(&mut self, index: usize) -> Option<TaskId> {
        let len = self.running.len();
        (len > 0).then(|| self.running[index % len].task)
    }

    fn end(&mut self, id: TaskId) {
        self.running.retain(|start| start.task != id);
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Load { of, hooks } => {
                self.commit(of, &hooks);
            }
            Step::LoadAhead { of } => {
                let position = self.commit(of, &[true]);
                let is_free = !self.schedule.has_open(&stream(of))
                    && self
                        .log
                        .range(self.schedule.read() + 1..position)
                        .all(|(_, it)| it.stream != stream(of));
                if is_free {
                    self.schedule.load(self.log[&position].clone());
                }
            }
            Step::Start { window } => self.start(window),
            Step::Finish(index) => {
                if let Some(id) = self.take(index) {
                    self.over.insert(self.name_of(id));
                    self.end(id);
                    self.schedule.finish(id);
                }
            }
            Step::Fail(index) => {
                if let Some(id) = self.take(index) {
                    let name = self.name_of(id);
                    self.end(id);
                    if self.schedule.fail(id, self.now, None) == AfterFailure::Dead {
                        self.over.insert(name);
                    }
                }
            }
            Step::Postpone(index) => {
                if let Some(id) = self.take(index) {
                    let attempts = self.attempts.entry(self.name_of(id));
                    attempts.and_modify(|attempts| *attempts -= 1);
                    self.end(id);
                    self.schedule.postpone(id, self.now, SECOND);
                }
            }
            Step::Wait(seconds) => self.now += SECOND * u32::try_from(seconds).unwrap(),
            Step::Save => self.saved = (self.schedule.cursor(), self.over.clone()),
            Step::Crash => {
                let (cursor, over) = self.saved.clone();
                let text = serde_json::to_string(&cursor).unwrap();
                let cursor: Cursor = serde_json::from_str(&text).unwrap();
                // What is beyond is read as if it were new.
                let open = cursor.open.iter().filter(|it| it.position <= cursor.read);
                let open = open.map(|it| ((it.position, Arc::clone(&it.hook)), it.attempts));
                self.attempts = open.collect();
                self.schedule = Schedule::new(cursor, MAX_ATTEMPTS);
                self.over = over;
                self.running.clear();
            }
            Step::Reopen(index) => {
                let positions: Vec<u64> = self
                    .log
                    .range(..=self.schedule.read())
                    .map(|it| *it.0)
                    .collect();
                if !positions.is_empty() {
                    self.reopen(positions[index % positions.len()]);
                }
            }
        }
        assert_eq!(self.schedule.counts().running, self.running.len());
        self.held_back.extend(self.schedule.take_held_back());
        self.check_held_back();
    }

    /// Returns whether an attempt at a delivery that is not done has ended.
    fn has_failed(&self, name: &Name) -> bool {
        let mut running = self.running.iter();
        let is_running = running.any(|it| (it.task.position, &it.hook) == (name.0, &name.1));
        let attempts = self.attempts.get(name).copied().unwrap_or(0);
        !self.over.contains(name) && attempts > u32::from(is_running)
    }

    /// Checks that everything after a failed event is known to be held back.
    fn check_held_back(&self) {
        for (position, arrival) in self.log.range(..=self.schedule.read()) {
            if !self.schedule.has_entry(*position) {
                continue;
            }
            let earlier = self.log.range(..position);
            let mut earlier = earlier.filter(|(_, it)| it.stream == arrival.stream);
            let is_behind = earlier.any(|(position, it)| {
                let mut hooks = it.hooks.iter();
                hooks.any(|(hook, _)| self.has_failed(&(*position, Arc::clone(hook))))
            });
            assert!(!is_behind || self.held_back.contains(position));
        }
    }

    fn reopen(&mut self, position: u64) {
        // Only where it does not disturb the order that is being checked.
        let arrival = self.log[&position].clone();
        let is_last = self
            .log
            .range(position + 1..)
            .all(|it| it.1.stream != arrival.stream);
        if is_last && !self.schedule.has_open(&arrival.stream) {
            let hooks = arrival.hooks.iter().map(|(hook, _)| Arc::clone(hook));
            self.schedule.reopen(position, hooks);
            self.over.retain(|(known, _)| *known != position);
            self.attempts.retain(|(known, _), _| *known != position);
        }
    }

    /// Ends whatever is left, successfully or not.
    fn drain(&mut self) {
        for round in 0_usize.. {
            self.start(3);
            if self.running.is_empty() {
                match self.schedule.next_wake() {
                    Some(due) => self.now = self.now.max(due),
                    None => break,
                }
            }
            let step: fn(usize) -> Step = if round.is_multiple_of(5) {
                Step::Fail
            } else {
                Step::Finish
            };
            self.play(step(round));
        }
    }
}

proptest! {
    /// Whatever happens: each record's events run in order and one at a time, never more than the
    /// window, every task ends, and what was done when the cursor was saved never runs again.
    #[test]
    fn every_task_ends_in_order(steps in prop::collection::vec(step(), 1..120)) {
        let mut game = Game::new();
        for step in steps {
            game.play(step);
        }
        game.drain();
        let end = game.log.keys().last().copied().unwrap_or(0);
        prop_assert_eq!(game.schedule.cursor(), Cursor::at(end));
        for (position, arrival) in &game.log {
            for (hook, _) in &arrival.hooks {
                prop_assert!(game.over.contains(&(*position, Arc::clone(hook))));
            }
        }
    }
}
