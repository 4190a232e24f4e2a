//! Who works for a consumer of the log, and who gets the next event. Pure.
//!
//! Each worker has a window: so many events it takes at once. The next event goes to the one that has
//! the smallest part of its window in hand; of several such to the one that had the fewest so far. An
//! event whose time is over is still in the worker's hand until it says what became of it, or
//! goes: a worker that hangs gets no more than its window.

use std::collections::BTreeMap;

/// Names a worker.
pub(super) type WorkerNumber = u64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Balancer {
    workers: BTreeMap<WorkerNumber, Hands>,
    last: WorkerNumber,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hands {
    window: usize,
    /// Events that it has, those whose time is over among them.
    num_held: usize,
    num_overdue: usize,
    num_given: u64,
}

impl Balancer {
    /// Takes a worker on.
    pub(super) fn join(&mut self, window: usize) -> WorkerNumber {
        self.last += 1;
        // One who comes late is not to make up for what the others have had.
        let given = self.workers.values().map(|hands| hands.num_given).min();
        let hands = Hands {
            window: window.max(1),
            num_held: 0,
            num_overdue: 0,
            num_given: given.unwrap_or(0),
        };
        self.workers.insert(self.last, hands);
        self.last
    }

    /// Lets a worker go.
    pub(super) fn leave(&mut self, worker: WorkerNumber) {
        self.workers.remove(&worker);
    }

    pub(super) fn num_workers(&self) -> usize {
        self.workers.len()
    }

    /// Returns how many events may be under way.
    pub(super) fn window(&self) -> usize {
        let free = |hands: &Hands| hands.window.saturating_sub(hands.num_overdue);
        self.workers.values().map(free).sum()
    }

    /// Picks who gets the next event; nobody when all have their hands full.
    pub(super) fn give(&mut self) -> Option<WorkerNumber> {
        let free = self.workers.iter_mut();
        let free = free.filter(|(_, hands)| hands.num_held < hands.window);
        let (worker, hands) = free.min_by(|(_, one), (_, other)| {
            let (left, right) = (one.num_held * other.window, other.num_held * one.window);
            left.cmp(&right).then(one.num_given.cmp(&other.num_given))
        })?;
        hands.num_held += 1;
        hands.num_given += 1;
        Some(*worker)
    }

    /// Says that an event's time is over, and the worker has it still.
    pub(super) fn overdue(&mut self, worker: WorkerNumber) {
        if let Some(hands) = self.workers.get_mut(&worker) {
            hands.num_overdue = (hands.num_overdue + 1).min(hands.num_held);
        }
    }

    /// Takes an event out of a worker's hands.
    pub(super) fn take_back(&mut self, worker: WorkerNumber, is_overdue: bool) {
        if let Some(hands) = self.workers.get_mut(&worker) {
            hands.num_held = hands.num_held.saturating_sub(1);
            hands.num_overdue -= usize::from(is_overdue && hands.num_overdue > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Join(usize),
        Leave(usize),
        Give,
        Answer(usize),
        Overdue(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            1 => (1_usize..5).prop_map(Step::Join),
            1 => any::<usize>().prop_map(Step::Leave),
            6 => Just(Step::Give),
            4 => any::<usize>().prop_map(Step::Answer),
            1 => any::<usize>().prop_map(Step::Overdue),
        ];
        prop::collection::vec(step, 1..80)
    }

    proptest! {
        /// Whatever happens: nobody has more than its window, an event is given whenever somebody
        /// has room, and what may be under way is what the free hands can hold.
        #[test]
        fn nobody_is_overloaded_and_nobody_idles(steps in steps()) {
            let mut balancer = Balancer::default();
            // What each worker has: its window, and of each event whether its time is over.
            let mut model: BTreeMap<WorkerNumber, (usize, Vec<bool>)> = BTreeMap::new();
            for step in steps {
                let held: Vec<(WorkerNumber, usize)> = model
                    .iter()
                    .flat_map(|(worker, (_, held))| (0..held.len()).map(|at| (*worker, at)))
                    .collect();
                match step {
                    Step::Join(window) => {
                        let worker = balancer.join(window);
                        prop_assert!(model.insert(worker, (window, Vec::new())).is_none());
                    }
                    Step::Leave(of) if !model.is_empty() => {
                        let worker = *model.keys().nth(of % model.len()).unwrap();
                        model.remove(&worker);
                        balancer.leave(worker);
                    }
                    Step::Give => {
                        let has_room = model.values().any(|(window, held)| held.len() < *window);
                        let given = balancer.give();
                        prop_assert_eq!(given.is_some(), has_room);
                        if let Some(worker) = given {
                            let (window, held) = model.get_mut(&worker).unwrap();
                            held.push(false);
                            prop_assert!(held.len() <= *window);
                        }
                    }
                    Step::Answer(of) if !held.is_empty() => {
                        let (worker, at) = held[of % held.len()];
                        let is_overdue = model.get_mut(&worker).unwrap().1.remove(at);
                        balancer.take_back(worker, is_overdue);
                    }
                    Step::Overdue(of) if !held.is_empty() => {
                        let (worker, at) = held[of % held.len()];
                        let overdue = &mut model.get_mut(&worker).unwrap().1[at];
                        if !*overdue {
                            *overdue = true;
                            balancer.overdue(worker);
                        }
                    }
                    _ => {}
                }
                let free = |(window, held): &(usize, Vec<bool>)| {
                    window - held.iter().filter(|is_overdue| **is_overdue).count()
                };
                prop_assert_eq!(balancer.window(), model.values().map(free).sum::<usize>());
                prop_assert_eq!(balancer.num_workers(), model.len());
            }
        }

        /// Workers that are as fast as each other get as much as each other, in proportion to
        /// their windows while there is more than they can take.
        #[test]
        fn it_is_shared_evenly(num_workers in 1_usize..5, num_events in 1_usize..200) {
            let mut balancer = Balancer::default();
            let mut given: BTreeMap<WorkerNumber, usize> = BTreeMap::new();
            for _ in 0..num_workers {
                given.insert(balancer.join(4), 0);
            }
            for _ in 0..num_events {
                let worker = balancer.give().unwrap();
                *given.get_mut(&worker).unwrap() += 1;
                balancer.take_back(worker, false);
            }
            let (least, most) = (given.values().min().unwrap(), given.values().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", given);
        }
    }
}
