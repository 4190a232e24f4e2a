//! Chooses the worker that gets the next event of a consumer of the log. Pure.
//!
//! Each worker has a window: the number of events that it takes at once. The next event goes to the
//! worker with the smallest share of its window in flight; among equals, to the one that has been
//! given the fewest. An event that is overdue stays in flight until the worker answers or leaves: a
//! worker that hangs gets no more than its window.

use std::collections::BTreeMap;

/// Identifies a worker.
pub(super) type WorkerNumber = u64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Balancer {
    workers: BTreeMap<WorkerNumber, Load>,
    last: WorkerNumber,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    window: usize,
    /// Events in flight, including overdue ones.
    num_in_flight: usize,
    num_overdue: usize,
    num_given: u64,
}

impl Balancer {
    /// Adds a worker.
    pub(super) fn add(&mut self, window: usize) -> WorkerNumber {
        self.last += 1;
        // A latecomer must not catch up on what the others were given.
        let given = self.workers.values().map(|load| load.num_given).min();
        let load = Load {
            window: window.max(1),
            num_in_flight: 0,
            num_overdue: 0,
            num_given: given.unwrap_or(0),
        };
        self.workers.insert(self.last, load);
        self.last
    }

    /// Removes a worker.
    pub(super) fn remove(&mut self, worker: WorkerNumber) {
        self.workers.remove(&worker);
    }

    pub(super) fn num_workers(&self) -> usize {
        self.workers.len()
    }

    /// Returns how many events can be in flight, apart from overdue ones.
    pub(super) fn window(&self) -> usize {
        let free = |load: &Load| load.window.saturating_sub(load.num_overdue);
        self.workers.values().map(free).sum()
    }

    /// Picks the worker for the next event; `None` when no window has room.
    pub(super) fn pick(&mut self) -> Option<WorkerNumber> {
        let free = self.workers.iter_mut();
        let free = free.filter(|(_, load)| load.num_in_flight < load.window);
        let (worker, load) = free.min_by(|(_, one), (_, other)| {
            let (left, right) = (
                one.num_in_flight * other.window,
                other.num_in_flight * one.window,
            );
            left.cmp(&right).then(one.num_given.cmp(&other.num_given))
        })?;
        load.num_in_flight += 1;
        load.num_given += 1;
        Some(*worker)
    }

    /// Records that an event is overdue and still with the worker.
    pub(super) fn overdue(&mut self, worker: WorkerNumber) {
        if let Some(load) = self.workers.get_mut(&worker) {
            load.num_overdue = (load.num_overdue + 1).min(load.num_in_flight);
        }
    }

    /// Records that an event is no longer in flight.
    pub(super) fn release(&mut self, worker: WorkerNumber, is_overdue: bool) {
        if let Some(load) = self.workers.get_mut(&worker) {
            load.num_in_flight = load.num_in_flight.saturating_sub(1);
            load.num_overdue -= usize::from(is_overdue && load.num_overdue > 0);
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
        /// Whatever happens, no worker exceeds its window, an event is given whenever a worker has
        /// room, and the total window is what overdue events leave of the windows.
        #[test]
        fn nobody_is_overloaded_and_nobody_idles(steps in steps()) {
            let mut balancer = Balancer::default();
            // What each worker has: its window, and for each event whether it is overdue.
            let mut model: BTreeMap<WorkerNumber, (usize, Vec<bool>)> = BTreeMap::new();
            for step in steps {
                let held: Vec<(WorkerNumber, usize)> = model
                    .iter()
                    .flat_map(|(worker, (_, held))| (0..held.len()).map(|at| (*worker, at)))
                    .collect();
                match step {
                    Step::Join(window) => {
                        let worker = balancer.add(window);
                        prop_assert!(model.insert(worker, (window, Vec::new())).is_none());
                    }
                    Step::Leave(of) if !model.is_empty() => {
                        let worker = *model.keys().nth(of % model.len()).unwrap();
                        model.remove(&worker);
                        balancer.remove(worker);
                    }
                    Step::Give => {
                        let has_room = model.values().any(|(window, held)| held.len() < *window);
                        let given = balancer.pick();
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
                        balancer.release(worker, is_overdue);
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

        /// Equally fast workers get equal numbers of events, in proportion to their windows while
        /// there are more events than they can take.
        #[test]
        fn it_is_shared_evenly(num_workers in 1_usize..5, num_events in 1_usize..200) {
            let mut balancer = Balancer::default();
            let mut given: BTreeMap<WorkerNumber, usize> = BTreeMap::new();
            for _ in 0..num_workers {
                given.insert(balancer.add(4), 0);
            }
            for _ in 0..num_events {
                let worker = balancer.pick().unwrap();
                *given.get_mut(&worker).unwrap() += 1;
                balancer.release(worker, false);
            }
            let (least, most) = (given.values().min().unwrap(), given.values().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", given);
        }
    }
}
