//! Tests linked accounts and relations of users against plain maps.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;
use skytrail_actors::store::{RecordStore as _, RelatedPage};
use skytrail_schema::event::{
    AccountLinked, AccountUnlinked, EventBody, RelationTarget, Service, Stream, UserPatch,
    UserState,
};
use skytrail_schema::id::UserId;
use skytrail_schema::predicate::{Direction, Relation};

use super::check_rebuilt;
use super::world::*;

const NUM_USERS: u8 = 4;
const RELATIONS: [Relation; 2] = [Relation::Friend, Relation::Follow];

#[derive(Clone, Debug)]
enum Step {
    /// User, service, principal.
    Link(u8, u8, u8),
    Unlink(u8, u8),
    See(u8),
    /// Relation, from, to.
    Relate(u8, u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let (user, service) = (0..NUM_USERS, 0_u8..5);
    prop_oneof![
        4 => (user.clone(), service.clone(), 0_u8..4)
            .prop_map(|(user, service, principal)| Step::Link(user, service, principal)),
        2 => (user.clone(), service).prop_map(|(user, service)| Step::Unlink(user, service)),
        1 => user.clone().prop_map(Step::See),
        4 => (0_u8..2, user.clone(), user).prop_map(|(kind, from, to)| Step::Relate(kind, from, to)),
    ]
}

fn user(number: u8) -> UserId {
    UserId::from(format!("u{number}"))
}

fn service(number: u8) -> Service {
    match number {
        0 | 1 => Service::OAuth(format!("p{number}")),
        2 => Service::CustomToken,
        other => Service::Provider(format!("p{other}")),
    }
}

/// The expected state: who has which account, and who is related to whom.
#[derive(Default)]
struct Model {
    accounts: BTreeMap<(u8, u8), u8>,
    relations: BTreeSet<(u8, u8, u8)>,
}

impl Model {
    /// Applies a step to the model if it is legal, and returns its event.
    fn decide(&mut self, step: &Step) -> Option<(Stream, EventBody)> {
        match *step {
            Step::Link(owner, at, principal) => self.link(owner, at, principal),
            Step::Unlink(owner, at) => {
                let before = self.accounts.len();
                self.accounts
                    .retain(|(service, _), of| (*service, *of) != (at, owner));
                let service = service(at);
                let body = EventBody::AccountUnlinked(AccountUnlinked { service });
                (self.accounts.len() < before).then(|| (Stream::User(user(owner)), body))
            }
            Step::See(owner) => {
                let patch = UserPatch {
                    last_seen_at: Some(now(5)),
                    ..UserPatch::default()
                };
                Some((Stream::User(user(owner)), EventBody::UserChanged(patch)))
            }
            Step::Relate(kind, from, to) => {
                let target = RelationTarget { to: user(to) };
                let body = if self.relations.remove(&(kind, from, to)) {
                    EventBody::RelationRemoved(target)
                } else {
                    self.relations.insert((kind, from, to));
                    EventBody::RelationAdded(target)
                };
                let relation = RELATIONS[usize::from(kind)];
                Some((Stream::Relation(relation, user(from)), body))
            }
        }
    }

    fn link(&mut self, owner: u8, at: u8, principal: u8) -> Option<(Stream, EventBody)> {
        let taken_by = self.accounts.get(&(at, principal)).copied();
        if taken_by.is_some_and(|other| other != owner) {
            return None;
        }
        if !matches!(service(at), Service::Provider(_)) {
            // A second account at the same service replaces the first.
            self.accounts
                .retain(|(service, _), of| (*service, *of) != (at, owner));
        }
        self.accounts.insert((at, principal), owner);
        let body = EventBody::AccountLinked(AccountLinked {
            service: service(at),
            principal: format!("a{principal}"),
            profile: json!({"n": principal}),
            at: now(principal.into()),
        });
        Some((Stream::User(user(owner)), body))
    }

    /// Returns the users related to one, ordered by id.
    fn related(&self, kind: u8, direction: Direction, me: u8) -> Vec<UserId> {
        let holds = |from, to| self.relations.contains(&(kind, from, to));
        let is_related = |other: &u8| match direction {
            Direction::Outward => holds(me, *other),
            Direction::Inward => holds(*other, me),
            Direction::Mutual => holds(me, *other) && holds(*other, me),
        };
        (0..NUM_USERS).filter(is_related).map(user).collect()
    }
}

async fn compare(world: &World, model: &Model) {
    for at in 0..5 {
        for principal in 0..4 {
            let name = format!("a{principal}");
            let found = world.store.find_linked(&service(at), &name).await.unwrap();
            let expected = model.accounts.get(&(at, principal)).copied().map(user);
            assert_eq!(found, expected, "{:?} {name}", service(at));
        }
    }
    let directions = [Direction::Outward, Direction::Inward, Direction::Mutual];
    for (kind, relation) in (0_u8..).zip(RELATIONS) {
        for me in 0..NUM_USERS {
            for direction in directions {
                let expected = model.related(kind, direction, me);
                let page = RelatedPage {
                    relation,
                    direction,
                    user: user(me),
                    limit: Some(2),
                    offset: 1,
                };
                let (found, count) = world.store.list_related(&page).await.unwrap();
                let on_page: Vec<_> = expected.iter().skip(1).take(2).cloned().collect();
                assert_eq!((found, count), (on_page, expected.len() as u64));
            }
            let others: Vec<UserId> = (0..NUM_USERS).map(user).collect();
            let mine = user(me);
            let held = world.store.load_relations(relation, &mine, &others);
            let (_, held) = held.await.unwrap();
            let expected = model.related(kind, Direction::Outward, me);
            assert_eq!(held.into_iter().collect::<Vec<_>>(), expected);
        }
    }
}

async fn check(steps: Vec<Step>, batch: usize) {
    let (mut world, mut model) = (World::new().await, Model::default());
    let newcomers = (0..NUM_USERS).map(|number| {
        let body = EventBody::UserCreated(UserState::default());
        (Stream::User(user(number)), body)
    });
    world.commit(newcomers.collect());
    for step in &steps {
        if let Some(event) = model.decide(step) {
            world.commit(vec![event]);
        }
    }
    world.apply_all(batch).await;
    compare(&world, &model).await;

    check_rebuilt(&mut world).await;
    compare(&world, &model).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(super::cases(24)))]

    #[test]
    fn the_store_knows_who_is_who(
        steps in prop::collection::vec(step(), 0..60),
        batch in 1_usize..20,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(check(steps, batch));
    }
}
