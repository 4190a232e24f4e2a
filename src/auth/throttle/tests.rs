use std::time::{Duration, Instant};

use super::bucket::Kind;
use super::memory::{MAX_BUCKETS, MAX_HOMES};
use super::{Attempt, Throttle};

const OWNER: &str = "192.0.2.1";

fn give_back(throttle: &Throttle, attempt: &Attempt, now: Instant) {
    if !attempt.is_free {
        throttle.memory.lock().end(attempt, false, now);
    }
}

fn num_admitted(throttle: &Throttle, attempt: &Attempt, now: Instant) -> usize {
    let admitted = (0..200).filter(|_| throttle.admit(attempt.clone(), now).is_ok());
    admitted.count()
}

fn stranger(number: usize) -> Attempt {
    Attempt::on("ada", &format!("stranger {number}"))
}

#[test]
fn an_empty_bucket_refuses_until_it_refills() {
    let throttle = Throttle::new(true);
    let (start, attempt) = (Instant::now(), Attempt::at("address 1"));
    assert_eq!(num_admitted(&throttle, &attempt, start), 10);
    let error = throttle.admit(attempt.clone(), start).unwrap_err();
    assert_eq!(error.status(), 429);
    assert!(throttle.admit(Attempt::at("address 2"), start).is_ok());
    let later = start + Kind::Address.refill();
    assert_eq!(num_admitted(&throttle, &attempt, later), 1);
}

#[test]
fn a_stranger_locks_nobody_out_however_long_he_tries() {
    let (throttle, start) = (Throttle::new(true), Instant::now());
    let mut num_guesses = 0;
    for second in 0..86_400 {
        let now = start + Duration::from_secs(second);
        num_guesses += usize::from(throttle.admit(stranger(0), now).is_ok());
    }
    assert!((2_880..=2_890).contains(&num_guesses), "{num_guesses}");
    let now = start + Duration::from_secs(86_400);
    let owner = Attempt::on("ada", OWNER);
    assert!(throttle.admit(owner.clone(), now).is_ok());
}

#[test]
fn many_strangers_together_have_so_many_guesses_and_no_more() {
    let (throttle, start) = (Throttle::new(true), Instant::now());
    let home = Attempt::on("ada", OWNER);
    throttle.welcome(&home);
    let all = |now| {
        let strangers = (0..100).map(stranger);
        strangers
            .filter(|it| throttle.admit(it.clone(), now).is_ok())
            .count()
    };
    let seconds = (0..3600).step_by(4);
    let num_guesses: usize = seconds.map(|it| all(start + Duration::from_secs(it))).sum();
    assert!((1_290..=1_300).contains(&num_guesses), "{num_guesses}");
    let now = start + Duration::from_secs(3596);
    let elsewhere = Attempt::on("ada", "192.0.2.2");
    assert!(throttle.admit(elsewhere.clone(), now).is_err());
    // Where she signs in she has the attempts of one address.
    assert_eq!(num_admitted(&throttle, &home, now), 10);
    assert!(throttle.admit(Attempt::on("ben", OWNER), now).is_err());
}

#[test]
fn who_is_refused_for_one_name_takes_nothing_from_the_others() {
    let (throttle, now) = (Throttle::new(true), Instant::now());
    let there = Attempt::at("stranger 0");
    assert_eq!(num_admitted(&throttle, &there, now), 10);
    assert_eq!(num_admitted(&throttle, &stranger(0), now), 0);
    let others = (1..20).map(|it| num_admitted(&throttle, &stranger(it), now));
    assert_eq!(others.sum::<usize>(), 100);
}

#[test]
fn one_repeat_of_a_guess_is_free_for_some_seconds() {
    let (throttle, start) = (Throttle::new(true), Instant::now());
    let guess = |text: &str| Attempt::on("ada", OWNER).guessing(text);
    for number in 0..9 {
        for _ in 0..2 {
            throttle.admit(guess(&number.to_string()), start).unwrap();
        }
    }
    // The third is a guess again, and so is a repeat of an older one.
    assert!(throttle.admit(guess("8"), start).is_ok());
    assert!(throttle.admit(guess("7"), start).is_err());
    let late = start + Kind::Address.refill() * 4;
    assert!(throttle.admit(Attempt::at(OWNER), late).is_ok());
    assert!(throttle.admit(guess("8"), late).is_err());
    assert_eq!(throttle.memory.lock().guesses.len(), 0);
}

#[test]
fn a_free_repeat_of_the_right_password_gives_nothing_back() {
    let (throttle, now) = (Throttle::new(true), Instant::now());
    let own = Attempt::on("eve", OWNER).guessing("her own");
    throttle.admit(Attempt::on("ada", OWNER), now).unwrap();
    for _ in 0..20 {
        let admitted = throttle.admit(own.clone(), now).unwrap();
        give_back(&throttle, &admitted, now);
    }
    let at_address = Attempt::at(OWNER);
    assert_eq!(num_admitted(&throttle, &at_address, now), 9);
}

#[test]
fn what_was_taken_is_given_back_though_the_address_is_a_home_by_then() {
    let (throttle, now) = (Throttle::new(true), Instant::now());
    let own = Attempt::on("ada", OWNER);
    let devices: Vec<_> = (0..5)
        .map(|_| throttle.admit(own.clone(), now).unwrap())
        .collect();
    for device in &devices {
        give_back(&throttle, device, now);
        throttle.welcome(device);
    }
    assert_eq!(throttle.state().num_buckets, 0);
}

#[test]
fn what_was_no_guess_takes_nothing() {
    let (throttle, now) = (Throttle::new(true), Instant::now());
    for _ in 0..200 {
        throttle.admit(stranger(0), now).unwrap();
        give_back(&throttle, &stranger(0), now);
    }
    assert_eq!(throttle.state().num_buckets, 0);
    // An attempt that was not taken is not given back.
    give_back(&throttle, &stranger(0), now);
    assert_eq!(num_admitted(&throttle, &stranger(0), now), 10);
}

#[test]
fn sign_ups_that_succeed_have_a_bucket_of_their_own() {
    let (throttle, start) = (Throttle::new(true), Instant::now());
    let anonymous = Attempt::default().signing_up(OWNER);
    let named = |it: usize| Attempt::on(&format!("new {it}"), OWNER).signing_up(OWNER);
    for number in 0..100 {
        throttle.admit(anonymous.clone(), start).unwrap();
        throttle.admit(named(number), start).unwrap();
        give_back(&throttle, &named(number), start);
    }
    // 100 of 300 are left, and none of the address's ten attempts has been taken.
    assert_eq!(num_admitted(&throttle, &anonymous, start), 100);
    assert!(throttle.admit(named(100), start).is_err());
    let owner = Attempt::on("ada", OWNER);
    assert_eq!(num_admitted(&throttle, &owner, start), 10);
    let later = start + Kind::SignUps.refill();
    assert_eq!(num_admitted(&throttle, &anonymous, later), 1);
}

#[test]
fn who_asks_which_names_are_taken_guesses() {
    let (throttle, now) = (Throttle::new(true), Instant::now());
    let taken = Attempt::on("ada", OWNER).signing_up(OWNER);
    assert_eq!(num_admitted(&throttle, &taken, now), 10);
}

#[test]
fn buckets_that_are_full_again_are_forgotten() {
    let (throttle, start) = (Throttle::new(true), Instant::now());
    for number in 0..100 {
        throttle.admit(stranger(number), start).unwrap();
    }
    assert_eq!(throttle.state().num_buckets, 201);
    let later = start + Duration::from_secs(300);
    throttle.admit(Attempt::at(OWNER), later).unwrap();
    assert_eq!(throttle.state().num_buckets, 1);
}

#[test]
fn what_is_remembered_is_bounded() {
    let (throttle, now) = (Throttle::new(true), Instant::now());
    for number in 0..MAX_HOMES + 10 {
        let attempt = Attempt::on(&format!("user {number}"), &format!("address {number}"));
        throttle.admit(attempt.clone(), now).unwrap();
        throttle.welcome(&attempt);
    }
    // The excess is evicted at the next attempt.
    throttle.admit(stranger(0), now).unwrap();
    assert_eq!(throttle.state().num_buckets, MAX_BUCKETS + 3);
    assert_eq!(throttle.memory.lock().homes.len(), MAX_HOMES);
}

#[test]
fn one_that_is_off_lets_everything_through() {
    let throttle = Throttle::new(false);
    assert_eq!(num_admitted(&throttle, &stranger(0), Instant::now()), 200);
}
