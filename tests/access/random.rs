//! Random operations.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::ops::{
    About, Access, Asked, Cond, DEVICES, Db, FILES, Forged, Grant, Id, Item, KINDS, NAMES, Op,
    ROLES, RuleOf, SUBSCRIPTIONS, Subscribed, TEXTS, USERS, Val, Who,
};

fn who() -> impl Strategy<Value = Who> {
    let user = 0..USERS;
    prop_oneof![
        1 => Just(Who::Nobody),
        4 => Just(Who::Client),
        24 => user.clone().prop_map(Who::User),
        6 => user.clone().prop_map(Who::Token),
        2 => Just(Who::Master),
        1 => user.clone().prop_map(Who::MasterWithToken),
        2 => (0..=USERS).prop_map(Who::MasterAs),
        6 => user.prop_map(Who::RightsOf),
    ]
}

/// A caller who changes settings: mostly the master key.
fn boss() -> impl Strategy<Value = Who> {
    prop_oneof![3 => Just(Who::Master), 2 => who()]
}

fn db() -> impl Strategy<Value = Db> {
    prop_oneof![
        12 => Just(Db::Public),
        4 => Just(Db::Private),
        1 => Just(Db::Union),
        2 => (0..USERS).prop_map(Db::Of),
        1 => Just(Db::Unknown),
    ]
}

fn id() -> impl Strategy<Value = Id> {
    prop_oneof![
        5 => (0..5_usize).prop_map(Id::Note),
        4 => (0..4_usize).prop_map(Id::Item),
        1 => (0..USERS).prop_map(Id::User),
    ]
}

fn grant() -> impl Strategy<Value = Grant> {
    let named = prop_oneof![
        3 => (0..USERS).prop_map(|user| (false, Some(user), None, None)),
        5 => select(&ROLES[..]).prop_map(|role| (false, None, Some(role), None)),
        1 => any::<bool>().prop_map(|public| (false, None, None, Some(public))),
        1 => Just((true, None, None, None)),
        1 => (0..USERS, select(&ROLES[..])).prop_map(|(user, role)| (true, Some(user), Some(role), Some(false))),
    ];
    (named, any::<bool>()).prop_map(|((relation, user, role, public), write)| Grant {
        relation,
        user,
        role,
        public,
        write,
    })
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![
        4 => Just(Access::Absent),
        1 => Just(Access::Null),
        6 => vec(grant(), 0..3).prop_map(Access::List),
    ]
}

fn field() -> impl Strategy<Value = (&'static str, Val)> {
    let value = prop_oneof![
        select(&TEXTS[..]).prop_map(|text| ("s", Val::Text(text))),
        (1..4_i64).prop_map(|number| ("n", Val::Number(number))),
        (0..USERS).prop_map(|user| ("u", Val::User(user))),
        vec(0..USERS, 0..3).prop_map(|users| ("j", Val::Users(users))),
        (0..4_usize).prop_map(|item| ("r", Val::Item(item))),
        any::<bool>().prop_map(|near| ("loc", Val::Place(near))),
        (0..FILES).prop_map(|file| ("f", Val::File(file))),
        select(&NAMES[..]).prop_map(|name| ("username", Val::Name(name))),
    ];
    (value, 0..5_u8)
        .prop_map(|((name, value), die)| (name, if die == 0 { Val::Null } else { value }))
}

fn smuggled() -> impl Strategy<Value = (&'static str, usize)> {
    let names = [
        "_ownerID",
        "_owner_id",
        "_owner",
        "_created_by",
        "_updated_by",
        "_database_id",
        "_type",
        "_transient",
        "_version",
        "_acl",
        "_created_at",
        "",
    ];
    (select(names.to_vec()), 0..USERS)
}

fn item() -> impl Strategy<Value = Item> {
    let smuggled = vec(smuggled(), 0..2);
    (id(), access(), vec(field(), 0..4), smuggled).prop_map(|(id, access, fields, smuggled)| Item {
        id,
        access,
        fields,
        smuggled,
    })
}

/// Rules in groups of the same type and field, whose order matters.
fn rules() -> impl Strategy<Value = Vec<RuleOf>> {
    let about = prop_oneof![
        3 => select(vec!["_owner", "_any_user", "_public"]).prop_map(About::Plain),
        1 => (0..USERS).prop_map(About::User),
        1 => select(vec!["u", "j", "_created_by"]).prop_map(About::Field),
        1 => select(&ROLES[..]).prop_map(About::Role),
    ];
    let kind = select(vec!["note", "note", "note", "item", "item", "user", "*"]);
    let names = select(vec![
        "s", "s", "n", "u", "j", "r", "r", "loc", "f", "username",
    ]);
    let field = prop_oneof![5 => names, 1 => Just("*")];
    let members = vec((about, proptest::array::uniform4(any::<bool>())), 1..4);
    let group = (kind, field, members).prop_map(|(kind, field, members)| {
        let rule = |(about, flags)| RuleOf {
            kind,
            field,
            about,
            flags,
        };
        members.into_iter().map(rule).collect::<Vec<_>>()
    });
    vec(group, 0..5).prop_map(|groups| groups.concat())
}

fn cond(kind: &'static str) -> BoxedStrategy<Cond> {
    let ops = || select(vec!["eq", "neq", "gt", "lt", "gte", "lte"]);
    let text = select(&TEXTS[..]).prop_map(Val::Text);
    let user = (0..USERS).prop_map(Val::User);
    let equal = || prop_oneof![3 => Just("eq"), 1 => Just("neq")];
    let mut leaves = vec![
        (equal(), text.clone())
            .prop_map(|(op, text)| Cond::Compare(op, "s", text))
            .boxed(),
        (ops(), text.clone())
            .prop_map(|(op, text)| Cond::Compare(op, "s", text))
            .boxed(),
        (ops(), 1..4_i64)
            .prop_map(|(op, number)| Cond::Compare(op, "n", Val::Number(number)))
            .boxed(),
        (equal(), select(vec!["s", "n", "u"]))
            .prop_map(|(op, field)| Cond::Compare(op, field, Val::Null))
            .boxed(),
        (
            equal(),
            select(vec![
                "u",
                "_owner",
                "_owner_id",
                "_created_by",
                "_updated_by",
            ]),
            user,
        )
            .prop_map(|(op, field, user)| Cond::Compare(op, field, user))
            .boxed(),
        select(vec!["alpha", "beta", "gamma-"])
            .prop_map(|prefix| Cond::Like("s", prefix))
            .boxed(),
        vec(text, 0..3)
            .prop_map(|texts| Cond::In("s", texts))
            .boxed(),
        (0..USERS).prop_map(Cond::JsonIn).boxed(),
        (
            select(vec!["_owner", "u", "_created_by"]),
            select(vec!["friend", "follow"]),
            select(vec!["outward", "inward", "mutual"]),
        )
            .prop_map(|(field, name, direction)| Cond::Related(field, name, direction))
            .boxed(),
    ];
    if kind == "user" {
        let name = select(&NAMES[..]).prop_map(Val::Name);
        leaves.push(
            (equal(), name)
                .prop_map(|(op, name)| Cond::Compare(op, "username", name))
                .boxed(),
        );
    } else {
        let through = select(vec!["r.s", "r.n", "r._owner_id", "r.r"]);
        leaves.push(
            (equal(), through.clone())
                .prop_map(|(op, path)| Cond::Compare(op, path, Val::Null))
                .boxed(),
        );
        let texts = select(&TEXTS[..]).prop_map(Val::Text);
        leaves.push(
            (ops(), texts)
                .prop_map(|(op, text)| Cond::Compare(op, "r.s", text))
                .boxed(),
        );
        leaves.push(Just(Cond::Like("r.s", "alpha")).boxed());
        leaves.push(Just(Cond::Near).boxed());
        leaves.push(
            equal()
                .prop_map(|op| Cond::Compare(op, "f", Val::Null))
                .boxed(),
        );
        leaves.push(
            (0..4_usize)
                .prop_map(|item| Cond::Compare("eq", "r", Val::Item(item)))
                .boxed(),
        );
    }
    let leaf = proptest::strategy::Union::new(leaves);
    leaf.prop_recursive(2, 6, 2, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..3).prop_map(Cond::And),
            vec(inner.clone(), 1..3).prop_map(Cond::Or),
            inner.prop_map(|inner| Cond::Not(Box::new(inner))),
        ]
    })
    .boxed()
}

fn asked() -> impl Strategy<Value = Asked> {
    let kind = prop_oneof![5 => Just("note"), 4 => Just("item"), 1 => Just("user")];
    kind.prop_flat_map(|kind| {
        let is_user = kind == "user";
        let own = if is_user {
            vec!["s", "n"]
        } else {
            vec!["s", "n", "loc", "_id"]
        };
        let sort = vec((select(own), any::<bool>()), 0..3);
        let paths = if is_user {
            vec!["_owner", "s"]
        } else {
            vec!["r", "_owner", "_created_by", "_updated_by", "s", "loc"]
        };
        let desired = option::weighted(0.2, vec(select(vec!["s", "n", "u"]), 0..3));
        let page = (
            any::<bool>(),
            option::weighted(0.3, 0..5_usize),
            prop_oneof![3 => Just(0_usize), 1 => 0..4_usize],
        );
        (
            option::weighted(0.7, cond(kind)),
            sort,
            vec(select(paths), 0..3),
            desired,
            page,
        )
            .prop_map(
                move |(cond, sort, include, desired, (count, limit, offset))| Asked {
                    kind,
                    cond,
                    sort,
                    include,
                    desired,
                    count,
                    limit,
                    offset,
                },
            )
    })
}

fn forged() -> impl Strategy<Value = Forged> {
    prop_oneof![
        2 => Just(Forged::Nothing),
        1 => Just(Forged::Bare),
        2 => (0..FILES).prop_map(Forged::For),
        1 => Just(Forged::Expired),
        1 => Just(Forged::Longer),
    ]
}

/// Records that a subscription follows references to may change before it is processed, so such
/// conditions have tests of their own.
fn subscribed() -> impl Strategy<Value = Subscribed> {
    select(vec!["note", "item"]).prop_flat_map(|kind| {
        let cond = cond(kind).prop_filter("looks behind a reference", |it| !it.looks_behind());
        option::weighted(0.6, cond).prop_map(move |cond| Subscribed { kind, cond })
    })
}

/// Devices, their subscriptions, and addresses of files.
fn device_op() -> impl Strategy<Value = Op> {
    let at = || (who(), db(), 0..DEVICES, 0..SUBSCRIPTIONS);
    prop_oneof![
        2 => (who(), 0..DEVICES).prop_map(|(who, device)| Op::Register(who, device)),
        1 => (who(), 0..DEVICES).prop_map(|(who, device)| Op::Unregister(who, device)),
        10 => (at(), subscribed()).prop_map(|((who, db, device, name), it)| Op::Subscribe(who, db, device, name, it)),
        2 => at().prop_map(|(who, db, device, name)| Op::Unsubscribe(who, db, device, name)),
        2 => (who(), db(), 0..DEVICES).prop_map(|(who, db, device)| Op::Subscriptions(who, db, device)),
        6 => (0..FILES, forged()).prop_map(|(file, forged)| Op::Download(file, forged)),
    ]
}

pub fn op() -> impl Strategy<Value = Op> {
    let users = || vec(0..USERS, 1..3);
    let roles = || vec(select(&ROLES[..]), 0..3);
    let relation = || select(vec!["friend", "follow"]);
    let change = (boss(), roles(), users(), any::<bool>());
    let delete = (who(), db(), vec(id(), 1..3), any::<bool>());
    // Records in a user's private database that another user owns.
    let gift = (0..USERS, vec(item(), 1..3));
    let save = (
        who(),
        db(),
        vec(item(), 1..4),
        prop_oneof![2 => Just(false), 1 => Just(true)],
    );
    prop_oneof![
        2 => (any::<bool>(), vec(field(), 0..4)).prop_map(|(master, profile)| Op::SignUp(master, profile)),
        7 => change.prop_map(|(who, roles, users, add)| Op::ChangeRoles(who, roles, users, add)),
        1 => (roles(), any::<bool>()).prop_map(|(roles, admin)| Op::FlagRoles(roles, admin)),
        1 => (who(), users()).prop_map(|(who, users)| Op::GetRoles(who, users)),
        1 => (select(&KINDS[..]), roles()).prop_map(|(kind, roles)| Op::Creation(kind, roles)),
        1 => (select(&KINDS[..]), vec(grant(), 0..3)).prop_map(|(kind, list)| Op::Default(kind, list)),
        4 => (boss(), rules()).prop_map(|(who, rules)| Op::Rules(who, rules)),
        2 => (boss(), 0..USERS, prop_oneof![1 => Just(true), 2 => Just(false)]).prop_map(|(who, user, off)| Op::Disable(who, user, off)),
        30 => save.prop_map(|(who, db, items, atomic)| Op::Save(who, db, items, atomic)),
        2 => gift.prop_map(|(user, items)| Op::Save(Who::Master, Db::Of(user), items, false)),
        6 => delete.prop_map(|(who, db, ids, atomic)| Op::Delete(who, db, ids, atomic)),
        10 => (who(), db(), vec(id(), 1..6)).prop_map(|(who, db, ids)| Op::Fetch(who, db, ids)),
        40 => (who(), db(), asked()).prop_map(|(who, db, asked)| Op::Query(who, db, asked)),
        3 => (who(), relation(), users(), any::<bool>()).prop_map(|(who, name, users, add)| Op::Relate(who, name, users, add)),
        2 => (who(), relation(), select(vec!["outward", "inward", "mutual"])).prop_map(|(who, name, direction)| Op::Related(who, name, direction)),
        2 => who().prop_map(Op::Me),
        14 => device_op(),
    ]
}
