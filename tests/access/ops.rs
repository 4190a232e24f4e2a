//! Operations. They name users, roles and records by number, so that a failing history can be
//! shortened and run again elsewhere.

/// The caller; users by number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Who {
    Nobody,
    Client,
    User(usize),
    /// A token without a key.
    Token(usize),
    Master,
    MasterWithToken(usize),
    /// The master key with `_user_id`; the last number is a user who never signed up.
    MasterAs(usize),
    /// The master key with only the rights of a user.
    RightsOf(usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Db {
    Public,
    Private,
    Union,
    Of(usize),
    Unknown,
}

#[derive(Clone, Debug)]
pub enum Val {
    Null,
    Text(&'static str),
    Name(&'static str),
    Number(i64),
    User(usize),
    Users(Vec<usize>),
    Item(usize),
    Place(bool),
    File(usize),
}

#[derive(Clone, Debug)]
pub struct Grant {
    pub relation: bool,
    pub user: Option<usize>,
    pub role: Option<&'static str>,
    pub public: Option<bool>,
    pub write: bool,
}

#[derive(Clone, Debug)]
pub enum Access {
    Absent,
    Null,
    List(Vec<Grant>),
}

#[derive(Clone, Debug)]
pub struct Item {
    pub id: Id,
    pub access: Access,
    pub fields: Vec<(&'static str, Val)>,
    /// Members that only the server may set, with the user whom they would favour.
    pub smuggled: Vec<(&'static str, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Id {
    Note(usize),
    Item(usize),
    User(usize),
}

/// The users whom a field rule is about.
#[derive(Clone, Debug, PartialEq)]
pub enum About {
    Plain(&'static str),
    User(usize),
    Field(&'static str),
    Role(&'static str),
}

#[derive(Clone, Debug)]
pub struct RuleOf {
    pub kind: &'static str,
    pub field: &'static str,
    pub about: About,
    /// Writable, readable, comparable, discoverable.
    pub flags: [bool; 4],
}

#[derive(Clone, Debug)]
pub enum Cond {
    Compare(&'static str, &'static str, Val),
    Like(&'static str, &'static str),
    In(&'static str, Vec<Val>),
    JsonIn(usize),
    Near,
    Related(&'static str, &'static str, &'static str),
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
}

#[derive(Clone, Debug)]
pub struct Asked {
    pub kind: &'static str,
    pub cond: Option<Cond>,
    pub sort: Vec<(&'static str, bool)>,
    pub include: Vec<&'static str>,
    pub desired: Option<Vec<&'static str>>,
    pub count: bool,
    pub limit: Option<usize>,
    pub offset: usize,
}

/// What a caller does with the address of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Forged {
    /// Leaves it as it was issued.
    Nothing,
    /// Leaves out the signature.
    Bare,
    /// Replaces the name with another file's.
    For(usize),
    /// Uses it after it has expired.
    Expired,
    /// Extends its expiry.
    Longer,
}

/// A query subscription.
#[derive(Clone, Debug)]
pub struct Subscribed {
    pub kind: &'static str,
    pub cond: Option<Cond>,
}

#[derive(Clone, Debug)]
pub enum Op {
    SignUp(bool, Vec<(&'static str, Val)>),
    ChangeRoles(Who, Vec<&'static str>, Vec<usize>, bool),
    FlagRoles(Vec<&'static str>, bool),
    GetRoles(Who, Vec<usize>),
    Creation(&'static str, Vec<&'static str>),
    Default(&'static str, Vec<Grant>),
    Rules(Who, Vec<RuleOf>),
    Disable(Who, usize, bool),
    Save(Who, Db, Vec<Item>, bool),
    Delete(Who, Db, Vec<Id>, bool),
    Fetch(Who, Db, Vec<Id>),
    Query(Who, Db, Asked),
    Relate(Who, &'static str, Vec<usize>, bool),
    Related(Who, &'static str, &'static str),
    Me(Who),
    /// Requests a file by one of its addresses.
    Download(usize, Forged),
    /// Takes over a device.
    Register(Who, usize),
    Unregister(Who, usize),
    /// Device and name of the subscription.
    Subscribe(Who, Db, usize, usize, Subscribed),
    Unsubscribe(Who, Db, usize, usize),
    Subscriptions(Who, Db, usize),
}

impl Cond {
    /// Returns whether it looks at records that the record in question refers to.
    pub fn looks_behind(&self) -> bool {
        match self {
            Self::Compare(_, path, _) | Self::Like(path, _) | Self::In(path, _) => {
                path.contains('.')
            }
            Self::And(parts) | Self::Or(parts) => parts.iter().any(Self::looks_behind),
            Self::Not(part) => part.looks_behind(),
            Self::JsonIn(_) | Self::Near | Self::Related(..) => false,
        }
    }
}

pub const KINDS: [&str; 3] = ["note", "item", "user"];
pub const ROLES: [&str; 4] = ["red", "blue 'n' \"%_", "boss", "Admin"];
pub const TEXTS: [&str; 4] = ["alpha-x", "alpha-y", "beta-x", "gamma-x"];
pub const NAMES: [&str; 5] = ["ada", "ben", "eve", "joe", "kim"];
/// How many users a history names.
pub const USERS: usize = 6;
pub const FILES: usize = 3;
pub const DEVICES: usize = 3;
/// How many names subscriptions have.
pub const SUBSCRIPTIONS: usize = 3;
