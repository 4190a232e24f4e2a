//! When tasks run, and when not.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;
use skytrail_actors::clock::ManualClock;
use skytrail_actors::context::RequestContext;
use skytrail_actors::plugin::Overlap;
use skytrail_actors::task::{PauseTask, RunOutcome, RunTask, Stop};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::EventBody;
use skytrail_schema::id::TaskId;

use super::world::{MemoryLog, World, at, quiet, timer};

fn nothing() -> (ManualClock, Arc<MemoryLog>) {
    let clock = ManualClock::default();
    let log = MemoryLog::new(&clock);
    (clock, log)
}

#[actix::test]
async fn a_run_is_claimed_before_the_plugin_hears_of_it_and_only_once() {
    let (clock, log) = nothing();
    let mut world = World::start(&clock, &log, &[timer("@every 10s")]).await;
    assert_eq!(world.report().await.next_run, Some(at(10)));
    world.wake_at(9).await;
    assert!(world.is_asked_nothing());
    world.wake_at(10).await;
    let run = world.run();
    assert_eq!(log.claims(), [10]);
    let request = &run.request;
    assert_eq!((request.kind, request.name.as_str()), ("timer", "tick"));
    assert!(request.param.is_null() && request.context.is_none());
    assert!(request.lineage.request_id.is_some());
    world.wake().await;
    assert!(world.is_asked_nothing());
    run.reply.send(Ok(json!(1))).unwrap();
    quiet().await;
    world.wake().await;
    assert!(world.is_asked_nothing());
    assert_eq!(
        world.report().await.last_run.unwrap().outcome,
        RunOutcome::Ok
    );
}

#[actix::test]
async fn two_servers_on_one_log_share_out_the_due_times() {
    let (clock, log) = nothing();
    let timers = [timer("@every 10s")];
    let mut one = World::start(&clock, &log, &timers).await;
    let mut other = World::start(&clock, &log, &timers).await;
    for second in [10, 20, 30] {
        clock.advance(10_000_000);
        // Both find the due time free, and both want to claim it.
        tokio::join!(one.nudge(), other.nudge());
        let run = tokio::select! {
            Some(run) = one.asked.recv() => run,
            Some(run) = other.asked.recv() => run,
        };
        run.reply.send(Ok(json!(1))).unwrap();
        tokio::join!(one.idle(), other.idle());
        assert!(
            one.is_asked_nothing() && other.is_asked_nothing(),
            "at {second}"
        );
    }
    assert_eq!(log.claims(), [10, 20, 30]);
    assert!(log.num_conflicts.load(Ordering::SeqCst) >= 3);
    // The schedule is the same for both.
    let is_schedule = |body: &&EventBody| matches!(body, EventBody::TaskScheduled(_));
    assert_eq!(log.bodies().iter().filter(is_schedule).count(), 1);
}

#[actix::test]
async fn a_lost_wake_up_call_is_made_up_for_by_the_next() {
    let (clock, log) = nothing();
    let mut world = World::start(&clock, &log, &[timer("0 * * * * *")]).await;
    assert_eq!(world.wake_seconds(), [1 << 59]);
    world.wake_at(119).await;
    world.finish().await;
    assert_eq!(log.claims(), [60]);
    // The clock is put back: nothing is run again.
    world.wake_at(50).await;
    world.wake_at(60).await;
    assert!(world.is_asked_nothing());
    world.wake_at(120).await;
    world.finish().await;
    assert_eq!(log.claims(), [60, 120]);
}

#[actix::test]
async fn a_clock_that_was_ahead_once_stops_no_task() {
    const YEAR: i64 = 365 * 86_400;
    for spec in ["@every 10s", "*/10 * * * * *"] {
        let (clock, log) = nothing();
        let timers = [timer(spec)];
        let mut world = World::start(&clock, &log, &timers).await;
        let jobs = world.jobs();
        world.wake_at(10).await;
        world.finish().await;
        world.wake_at(YEAR).await;
        world.finish().await;
        // The clock is right again: nothing earlier is run once more, and the next due time is.
        world.wake_at(25).await;
        assert!(world.is_asked_nothing());
        assert!(world.report().await.next_run.unwrap() <= at(35));
        // The driver has seen the end of the year, too.
        assert_ne!(world.jobs(), jobs);
        world.wake_at(35).await;
        world.finish().await;
        let claims = log.claims();
        assert!(claims[2] > 25 && claims[2] <= 35, "{claims:?}");
        // A resumed task is not held back either, whatever the time of its commit.
        for is_paused in [true, false] {
            let message = PauseTask {
                id: TaskId::new("p", "tick"),
                is_paused,
                context: RequestContext::system(),
            };
            world.tasks.send(message).await.unwrap().unwrap();
        }
        quiet().await;
        world.wake_at(45).await;
        world.finish().await;
        assert_eq!(log.claims().len(), 4);
        // Nor is one that a server with a right clock takes over from one with a wrong clock.
        world.wake_at(YEAR).await;
        world.finish().await;
        world.tasks.send(Stop).await.unwrap();
        clock.advance((60 - YEAR) * 1_000_000);
        let mut world = World::start(&clock, &log, &timers).await;
        world.wake_at(70).await;
        world.finish().await;
        let claims = log.claims();
        assert!(claims.len() == 6 && claims[5] <= 70, "{claims:?}");
    }
}

#[actix::test]
async fn a_full_disk_delays_a_run_and_does_not_lose_it() {
    let (clock, log) = nothing();
    let mut world = World::start(&clock, &log, &[timer("@every 10s")]).await;
    log.is_full.store(true, Ordering::SeqCst);
    world.wake_at(10).await;
    assert!(world.is_asked_nothing());
    assert!(world.report().await.running_since.is_none());
    log.is_full.store(false, Ordering::SeqCst);
    world.wake_at(11).await;
    world.finish().await;
    assert_eq!(log.claims(), [10]);
}

#[actix::test]
async fn good_ends_go_along_with_the_next_claim_and_bad_ones_at_once() {
    let (clock, log) = nothing();
    let mut world = World::start(&clock, &log, &[timer("@every 1s")]).await;
    let num_before = log.num_commits();
    for second in [1, 2, 3] {
        world.wake_at(second).await;
        world.finish().await;
    }
    assert_eq!(log.num_commits() - num_before, 3);
    assert_eq!(log.num_ends(), 2);
    // The report knows of the end all the same.
    assert_eq!(world.report().await.last_run.unwrap().ended_at, Some(at(3)));
    world.wake_at(4).await;
    let failure = ApiError::new(Code::PluginTimeout, "too slow");
    world.run().reply.send(Err(failure.clone())).unwrap();
    quiet().await;
    assert_eq!(log.num_ends(), 4);
    let last = world.report().await.last_run.unwrap();
    assert_eq!(
        (last.outcome, last.error),
        (RunOutcome::Failed, Some(failure))
    );
}

#[actix::test]
async fn an_end_does_not_wait_for_a_claim_that_is_far_or_does_not_come() {
    let (clock, log) = nothing();
    let mut world = World::start(&clock, &log, &[timer("@every 2s")]).await;
    world.wake_at(2).await;
    world.finish().await;
    assert_eq!(log.num_ends(), 1);

    let (clock, log) = nothing();
    let often = [timer("@every 1s")];
    let mut world = World::start(&clock, &log, &often).await;
    world.wake_at(1).await;
    world.finish().await;
    assert_eq!(log.num_ends(), 0);
    world.register(&often, false).await;
    for second in [2, 3] {
        world.wake_at(second).await;
    }
    assert!(world.is_asked_nothing());
    assert_eq!(log.num_ends(), 1);
}

#[actix::test]
async fn an_end_that_the_log_cannot_take_is_told_again() {
    let (clock, log) = nothing();
    let mut world = World::start(&clock, &log, &[timer("@every 100s")]).await;
    world.wake_at(100).await;
    log.is_full.store(true, Ordering::SeqCst);
    world.finish().await;
    log.is_full.store(false, Ordering::SeqCst);
    assert_eq!(log.num_ends(), 0);
    world.wake_at(110).await;
    assert_eq!(log.num_ends(), 1);
}

#[actix::test]
async fn a_run_whose_end_is_being_written_is_not_lost() {
    let (clock, log) = nothing();
    let mut world = World::start(&clock, &log, &[timer("@every 10s")]).await;
    world.wake_at(10).await;
    world.run().reply.send(Ok(json!(null))).unwrap();
    // Whenever it is looked at, the run is under way or has ended well.
    for _ in 0..50 {
        let outcome = world.report().await.last_run.unwrap().outcome;
        assert_ne!(outcome, RunOutcome::Lost);
    }
    assert_eq!(log.num_ends(), 1);
}

#[actix::test]
async fn a_stop_waits_for_runs_and_leaves_nothing_unsaid() {
    let (clock, log) = nothing();
    let mut world = World::start(&clock, &log, &[timer("@every 10s")]).await;
    world.wake_at(10).await;
    let run = world.run();
    let stopping = actix::spawn(world.tasks.send(Stop));
    quiet().await;
    assert!(!stopping.is_finished());
    run.reply.send(Ok(json!(1))).unwrap();
    stopping.await.unwrap().unwrap();
    assert_eq!(log.num_ends(), 1);
    assert!(world.wake_seconds().is_empty());
}

#[actix::test]
async fn a_run_that_its_process_did_not_survive_is_lost_and_not_begun_again() {
    let (clock, log) = nothing();
    let timers = [timer("@every 10s")];
    let mut before = World::start(&clock, &log, &timers).await;
    before.wake_at(10).await;
    let _never_answered = before.run();
    // The process is gone; all that is left of its knowledge is in the log.
    let mut after = World::start(&clock, &log, &timers).await;
    after.wake_at(12).await;
    assert!(after.is_asked_nothing());
    let last = after.report().await.last_run.unwrap();
    assert_eq!((last.outcome, last.due), (RunOutcome::Lost, at(10)));
    after.wake_at(20).await;
    after.finish().await;
    assert_eq!(log.claims(), [10, 20]);
}

#[actix::test]
async fn overlapping_runs_are_told_apart() {
    let (clock, log) = nothing();
    let overlapping = skytrail_actors::plugin::Timer {
        overlap: Overlap::Allow,
        ..timer("@every 10s")
    };
    let mut world = World::start(&clock, &log, &[overlapping]).await;
    world.wake_at(10).await;
    let first = world.run();
    world.wake_at(20).await;
    let second = world.run();
    assert_eq!(world.report().await.running_since, Some(at(10)));
    // No more runs than half of the plugin's window.
    world.wake_at(30).await;
    assert!(world.is_asked_nothing());
    assert_eq!(world.report().await.num_skipped, 1);
    first.reply.send(Ok(json!(1))).unwrap();
    quiet().await;
    assert_eq!(world.report().await.running_since, Some(at(20)));
    assert_eq!(
        world.report().await.last_run.unwrap().outcome,
        RunOutcome::Running
    );
    second.reply.send(Ok(json!(1))).unwrap();
    quiet().await;
    assert_eq!(log.claims(), [10, 20]);
    assert_eq!(world.report().await.num_runs, 2);
}

#[actix::test]
async fn a_changed_timer_is_set_anew_and_a_vanished_one_ends() {
    let (clock, log) = nothing();
    let mut world = World::start(&clock, &log, &[timer("@every 10s")]).await;
    world.wake_at(7).await;
    world.register(&[timer("30 * * * * *")], true).await;
    assert_eq!(world.wake_seconds(), [1 << 29]);
    world.wake_at(10).await;
    assert!(world.is_asked_nothing());
    world.wake_at(30).await;
    let run = world.run();
    // A run outlives its timer.
    world.register(&[], true).await;
    assert!(
        world
            .tasks
            .send(skytrail_actors::task::ListTasks)
            .await
            .unwrap()
            .is_empty()
    );
    run.reply.send(Ok(json!(1))).unwrap();
    quiet().await;
    assert!(world.wake_seconds().is_empty());
    assert!(log.num_ends() == 1);
}

#[actix::test]
async fn a_task_that_comes_back_begins_anew() {
    for spec in ["@every 10s", "0 * * * * *"] {
        let (clock, log) = nothing();
        let timers = [timer(spec)];
        let mut world = World::start(&clock, &log, &timers).await;
        world.wake_at(5).await;
        // A registration without the task: nobody had to run what was due meanwhile.
        world.register(&[], true).await;
        assert_eq!(log.num_dropped(), 1);
        clock.advance(70_000_000);
        world.register(&timers, true).await;
        world.wake_at(76).await;
        assert!(world.is_asked_nothing(), "{spec}");
        assert_eq!(world.report().await.num_missed, 0, "{spec}");
        let next = world.report().await.next_run;
        let due = if spec.starts_with('@') { 85 } else { 120 };
        assert_eq!(next, Some(at(due)), "{spec}");
        world.wake_at(due).await;
        world.run();
    }
}

#[actix::test]
async fn a_plugin_that_is_away_drops_nothing() {
    let (clock, log) = nothing();
    let timers = [timer("@every 10s")];
    let mut world = World::start(&clock, &log, &timers).await;
    world.register(&[], false).await;
    world.wake_at(15).await;
    world.register(&timers, true).await;
    world.wake().await;
    world.finish().await;
    assert_eq!((log.claims(), log.num_dropped()), (vec![10], 0));
}

#[actix::test]
async fn a_task_that_is_gone_after_a_restart_is_dropped() {
    let (clock, log) = nothing();
    let timers = [timer("@every 10s")];
    World::start(&clock, &log, &timers).await;
    let mut after = World::start(&clock, &log, &[]).await;
    assert_eq!(log.num_dropped(), 1);
    clock.advance(12_000_000);
    after.register(&timers, true).await;
    assert!(after.is_asked_nothing());
    assert_eq!(after.report().await.next_run, Some(at(22)));
}

#[actix::test]
async fn a_task_that_comes_back_before_the_log_knows_that_it_is_gone_begins_anew() {
    // It comes back ever later.
    for num_steps in 0..30 {
        let (clock, log) = nothing();
        let timers = [timer("@every 10s")];
        let mut world = World::start(&clock, &log, &timers).await;
        clock.advance(12_000_000);
        world.set_points(&[], true);
        for _ in 0..num_steps {
            tokio::task::yield_now().await;
        }
        world.register(&timers, true).await;
        world.wake().await;
        // Otherwise nobody has seen that it was gone.
        let is_anew = log.num_dropped() == 1;
        assert_eq!(world.is_asked_nothing(), is_anew, "{num_steps}");
        let due = if is_anew { 22 } else { 20 };
        assert_eq!(world.report().await.next_run, Some(at(due)), "{num_steps}");
    }
}

#[actix::test]
async fn a_paused_task_that_comes_back_is_paused() {
    let (clock, log) = nothing();
    let timers = [timer("@every 10s")];
    let mut world = World::start(&clock, &log, &timers).await;
    let message = PauseTask {
        id: TaskId::new("p", "tick"),
        is_paused: true,
        context: RequestContext::system(),
    };
    world.tasks.send(message).await.unwrap().unwrap();
    world.register(&[], true).await;
    world.register(&timers, true).await;
    assert_eq!(log.num_dropped(), 1);
    assert!(world.report().await.is_paused);
    world.wake_at(10).await;
    assert!(world.is_asked_nothing());
}

#[actix::test]
async fn who_asks_for_a_run_hears_how_it_ended() {
    let (clock, log) = nothing();
    let mut world = World::start(&clock, &log, &[timer("@yearly")]).await;
    let ask = || RunTask {
        id: TaskId::new("p", "tick"),
        context: RequestContext::system(),
    };
    let asked = actix::spawn(world.tasks.send(ask()));
    quiet().await;
    let run = world.run();
    let refused = world.tasks.send(ask()).await.unwrap().unwrap_err();
    assert_eq!(refused.code, Code::Duplicated);
    run.reply.send(Ok(json!(1))).unwrap();
    let report = asked.await.unwrap().unwrap().unwrap();
    assert_eq!(report.last_run.unwrap().outcome, RunOutcome::Ok);

    world.register(&[timer("@yearly")], false).await;
    let refused = world.tasks.send(ask()).await.unwrap().unwrap_err();
    assert_eq!(refused.code, Code::PluginUnavailable);
    let other = RunTask {
        id: TaskId::new("p", "tock"),
        ..ask()
    };
    let refused = world.tasks.send(other).await.unwrap().unwrap_err();
    assert_eq!(refused.code, Code::ResourceNotFound);
}

#[actix::test]
async fn a_paused_task_rests() {
    let (clock, log) = nothing();
    let mut world = World::start(&clock, &log, &[timer("@every 10s")]).await;
    let set = |is_paused| PauseTask {
        id: TaskId::new("p", "tick"),
        is_paused,
        context: RequestContext::system(),
    };
    let paused = world.tasks.send(set(true)).await.unwrap().unwrap();
    assert!(paused.is_paused && paused.next_run.is_none());
    let num_commits = log.num_commits();
    world.tasks.send(set(true)).await.unwrap().unwrap();
    assert_eq!(log.num_commits(), num_commits);
    world.wake_at(25).await;
    assert!(world.is_asked_nothing());
    let resumed = world.tasks.send(set(false)).await.unwrap().unwrap();
    assert_eq!(resumed.next_run, Some(at(30)));
    assert!(world.is_asked_nothing());
    world.wake_at(30).await;
    world.finish().await;
    assert_eq!(log.claims(), [30]);
}
