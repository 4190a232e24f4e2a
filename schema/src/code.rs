//! The table of error codes that clients branch on, and the error type that every part maps to.

use std::fmt;

use serde_json::{Map, Value as Json, json};

/// Defines the code table: variant, number, default HTTP status.
macro_rules! codes {
    ($($name:ident = $number:literal, $status:literal;)*) => {
        /// What went wrong, in the protocol's own numbers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the names are the protocol's own")]
        pub enum Code {
            $($name,)*
            /// A code that a plugin chose. It is passed on unchanged.
            Other(i64),
        }

        impl Code {
            /// Returns the number on the wire.
            pub fn number(self) -> i64 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Other(number) => number,
                }
            }

            /// Returns the HTTP status of the code, unless a check sets another.
            pub fn status(self) -> u16 {
                match self {
                    $(Self::$name => $status,)*
                    Self::Other(_) => 500,
                }
            }

            /// Returns the code with this number.
            pub fn from_number(number: i64) -> Self {
                match number {
                    $($number => Self::$name,)*
                    other => Self::Other(other),
                }
            }

            /// Returns the name on the wire.
            pub fn name(self) -> String {
                match self {
                    $(Self::$name => stringify!($name).to_owned(),)*
                    Self::Other(number) => format!("ErrorCode({number})"),
                }
            }
        }
    };
}

codes! {
    NotAuthenticated = 101, 401;
    PermissionDenied = 102, 403;
    AccessKeyNotAccepted = 103, 401;
    AccessTokenNotAccepted = 104, 401;
    InvalidCredentials = 105, 401;
    InvalidSignature = 106, 401;
    BadRequest = 107, 400;
    InvalidArgument = 108, 400;
    Duplicated = 109, 409;
    ResourceNotFound = 110, 404;
    NotSupported = 111, 501;
    NotImplemented = 112, 501;
    ConstraintViolated = 113, 409;
    IncompatibleSchema = 114, 409;
    AtomicOperationFailure = 115, 409;
    PartialOperationFailure = 116, 200;
    UndefinedOperation = 117, 404;
    PluginUnavailable = 118, 503;
    PluginTimeout = 119, 504;
    RecordQueryInvalid = 120, 400;
    PluginInitializing = 121, 500;
    ResponseTimeout = 122, 503;
    DeniedArgument = 123, 403;
    RecordQueryDenied = 124, 403;
    NotConfigured = 125, 503;
    PasswordPolicyViolated = 126, 500;
    UserDisabled = 127, 403;
    VerificationRequired = 128, 403;
    AssetSizeTooLarge = 129, 500;
    UnexpectedError = 10000, 500;
    UnexpectedAuthInfoNotFound = 10001, 500;
    UnexpectedUnableToOpenDatabase = 10002, 503;
    UnexpectedPushNotificationNotConfigured = 10003, 500;
    InternalQueryInvalid = 10004, 500;
    UnexpectedUserNotFound = 10005, 500;
}

/// An error as a client sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// The protocol's code.
    pub code: Code,
    /// A sentence for humans.
    pub message: String,
    /// Details that clients branch on; empty means absent.
    pub info: Map<String, Json>,
    /// The HTTP status, where a check answers with one that differs from the code's own.
    pub status: Option<u16>,
}

impl ApiError {
    /// Builds an error without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            info: Map::new(),
            status: None,
        }
    }

    /// Builds a 108 that names the arguments at fault.
    pub fn invalid_argument(message: impl Into<String>, arguments: &[&str]) -> Self {
        Self::new(Code::InvalidArgument, message).with_info("arguments", json!(arguments))
    }

    /// Builds a 10000: something that should not have happened. The cause belongs in the server's
    /// log, not here.
    pub fn unexpected(message: impl Into<String>) -> Self {
        Self::new(Code::UnexpectedError, message)
    }

    /// Builds a 503 for a component whose queue is full. The HTTP layer adds `Retry-After`.
    pub fn overloaded(part: &str) -> Self {
        Self {
            status: Some(503),
            ..Self::unexpected(format!("{part} is overloaded, try again"))
        }
        .with_info("retry_after_ms", json!(1000))
    }

    /// Adds one member to `info`.
    #[must_use]
    pub fn with_info(mut self, name: &str, value: Json) -> Self {
        self.info.insert(name.to_owned(), value);
        self
    }

    /// Answers with an HTTP status that differs from the code's own.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// Returns the HTTP status to answer with.
    pub fn status(&self) -> u16 {
        self.status.unwrap_or_else(|| self.code.status())
    }

    /// Returns the error object of the wire: `name`, `code`, `message`, and `info` if it is not
    /// empty.
    pub fn to_wire(&self) -> Json {
        let mut object = Map::new();
        object.insert("name".into(), self.code.name().into());
        object.insert("code".into(), self.code.number().into());
        object.insert("message".into(), self.message.clone().into());
        if !self.info.is_empty() {
            object.insert("info".into(), Json::Object(self.info.clone()));
        }
        Json::Object(object)
    }

    /// Returns the item that stands for this error in the result of a batch.
    pub fn to_item(&self, id: Option<&dyn fmt::Display>) -> Json {
        let mut item = self.to_wire();
        if let Json::Object(object) = &mut item {
            object.insert("_type".into(), "error".into());
            if let Some(id) = id {
                object.insert("_id".into(), id.to_string().into());
            }
        }
        item
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}): {}",
            self.code.name(),
            self.code.number(),
            self.message
        )
    }
}

impl std::error::Error for ApiError {}
