//! The one error type that crosses boundaries: a class that programs decide on, and one line for people.

use std::fmt;

use crate::common_capnp::{ErrorClass, error};

/// What a caller can do about an error. RPC, exit code, log and metric all read this one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A defect of ours, or an operating system error that has no better name.
    Internal,
    /// It does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The request can never succeed as it is.
    InvalidArgument,
    /// The request is fine, the state that it meets is not.
    FailedPrecondition,
    /// Try again later.
    Unavailable,
    /// The caller may not.
    PermissionDenied,
    /// Disk, memory, or a configured limit.
    ResourceExhausted,
    /// Bytes are not what they must be.
    Corrupt,
    /// Cancelled, or a race was lost.
    Aborted,
    /// Not in this build.
    Unimplemented,
}

impl Class {
    /// All of them, in the order of the schema.
    pub const ALL: [Self; 11] = [
        Self::Internal,
        Self::NotFound,
        Self::AlreadyExists,
        Self::InvalidArgument,
        Self::FailedPrecondition,
        Self::Unavailable,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::Corrupt,
        Self::Aborted,
        Self::Unimplemented,
    ];

    /// The name that users see: `NotFound`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Internal => "Internal",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::InvalidArgument => "InvalidArgument",
            Self::FailedPrecondition => "FailedPrecondition",
            Self::Unavailable => "Unavailable",
            Self::PermissionDenied => "PermissionDenied",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::Corrupt => "Corrupt",
            Self::Aborted => "Aborted",
            Self::Unimplemented => "Unimplemented",
        }
    }

    fn to_wire(self) -> ErrorClass {
        match self {
            Self::Internal => ErrorClass::Internal,
            Self::NotFound => ErrorClass::NotFound,
            Self::AlreadyExists => ErrorClass::AlreadyExists,
            Self::InvalidArgument => ErrorClass::InvalidArgument,
            Self::FailedPrecondition => ErrorClass::FailedPrecondition,
            Self::Unavailable => ErrorClass::Unavailable,
            Self::PermissionDenied => ErrorClass::PermissionDenied,
            Self::ResourceExhausted => ErrorClass::ResourceExhausted,
            Self::Corrupt => ErrorClass::Corrupt,
            Self::Aborted => ErrorClass::Aborted,
            Self::Unimplemented => ErrorClass::Unimplemented,
        }
    }

    fn from_wire(class: ErrorClass) -> Self {
        match class {
            ErrorClass::Internal => Self::Internal,
            ErrorClass::NotFound => Self::NotFound,
            ErrorClass::AlreadyExists => Self::AlreadyExists,
            ErrorClass::InvalidArgument => Self::InvalidArgument,
            ErrorClass::FailedPrecondition => Self::FailedPrecondition,
            ErrorClass::Unavailable => Self::Unavailable,
            ErrorClass::PermissionDenied => Self::PermissionDenied,
            ErrorClass::ResourceExhausted => Self::ResourceExhausted,
            ErrorClass::Corrupt => Self::Corrupt,
            ErrorClass::Aborted => Self::Aborted,
            ErrorClass::Unimplemented => Self::Unimplemented,
        }
    }
}

/// An error with its class. The message says what failed, on what, and what to do, in one line.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    class: Class,
    is_broken_off: bool,
    message: Box<str>,
}

/// A result with our error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($name:ident $class:ident),* $(,)?) => {$(
        #[doc = concat!("An error of class `", stringify!($class), "`.")]
        pub fn $name(message: impl Into<String>) -> Self {
            Self::new(Class::$class, message)
        }
    )*};
}

impl Error {
    /// An error of a class that is only known at run time.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if message.contains('\n') {
            message = message.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
        }
        Self { class, is_broken_off: false, message: message.into() }
    }

    constructors! {
        internal Internal,
        not_found NotFound,
        already_exists AlreadyExists,
        invalid InvalidArgument,
        precondition FailedPrecondition,
        unavailable Unavailable,
        denied PermissionDenied,
        exhausted ResourceExhausted,
        corrupt Corrupt,
        aborted Aborted,
        unimplemented Unimplemented,
    }

    /// An operating system error, where the noun is known: `Error::io("open /x", error)`.
    ///
    /// The class comes from the error number where that says enough: no space and no descriptors
    /// left are `ResourceExhausted`, missing is `NotFound`, and so on; else `Internal`.
    pub fn io(what: impl fmt::Display, error: impl Into<std::io::Error>) -> Self {
        use std::io::ErrorKind as Kind;
        let error = error.into();
        let class = match error.kind() {
            Kind::NotFound => Class::NotFound,
            Kind::AlreadyExists => Class::AlreadyExists,
            Kind::PermissionDenied => Class::PermissionDenied,
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge | Kind::OutOfMemory => {
                Class::ResourceExhausted
            }
            Kind::ReadOnlyFilesystem | Kind::DirectoryNotEmpty | Kind::ResourceBusy => {
                Class::FailedPrecondition
            }
            Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::BrokenPipe
            | Kind::TimedOut => Class::Unavailable,
            _ => match error.raw_os_error() {
                // EMFILE and ENFILE: descriptors, of this process and of the system.
                Some(23 | 24) => Class::ResourceExhausted,
                _ => Class::Internal,
            },
        };
        Self::new(class, format!("{what}: {error}"))
    }

    /// An `Unavailable` of a plugin that ended with a call in its hands: whether the call took effect is not
    /// known, and the next instance may answer it. That does not cross the wire.
    pub fn broken_off(message: impl Into<String>) -> Self {
        Self { is_broken_off: true, ..Self::unavailable(message) }
    }

    /// Whether it came from [`Error::broken_off`].
    pub fn is_broken_off(&self) -> bool {
        self.is_broken_off
    }

    /// The same error without that mark, for whoever has nothing to do with the plugin that ended.
    #[must_use]
    pub fn settled(self) -> Self {
        Self { is_broken_off: false, ..self }
    }

    /// The class, for whoever decides.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The line for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same error with the place where it happened said first. The class stays.
    #[must_use]
    pub fn at(self, place: impl fmt::Display) -> Self {
        let is_broken_off = self.is_broken_off;
        Self { is_broken_off, ..Self::new(self.class, format!("{place}: {}", self.message)) }
    }

    /// Another class for the same text, where a caller knows better what it means.
    #[must_use]
    pub fn as_class(self, class: Class) -> Self {
        Self { class, ..self }
    }

    /// Reads an `error` field; `None` when it is null, that is, when the call worked.
    pub fn read(has: bool, reader: capnp::Result<error::Reader<'_>>) -> Option<Self> {
        if !has {
            return None;
        }
        let reader = match reader {
            Ok(reader) => reader,
            Err(error) => return Some(Self::from(error)),
        };
        let class = reader.get_class().map_or(Class::Internal, Class::from_wire);
        let message = reader.get_message().ok().and_then(|text| text.to_string().ok());
        Some(Self::new(class, message.unwrap_or_default()))
    }

    /// Writes an `error` field.
    pub fn write(&self, mut builder: error::Builder<'_>) {
        builder.set_class(self.class.to_wire());
        builder.set_message(&*self.message);
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class.name(), self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

/// Trouble with the connection itself, or with a message that does not decode.
impl From<capnp::Error> for Error {
    fn from(error: capnp::Error) -> Self {
        use capnp::ErrorKind as Kind;
        let class = match error.kind {
            Kind::Disconnected => Class::Unavailable,
            Kind::Overloaded => Class::ResourceExhausted,
            Kind::Unimplemented => Class::Unimplemented,
            _ => Class::Internal,
        };
        let text = if error.extra.is_empty() { error.to_string() } else { error.extra };
        Self::new(class, text)
    }
}

/// An enum value or a union member that is newer than this program.
impl From<capnp::NotInSchema> for Error {
    fn from(error: capnp::NotInSchema) -> Self {
        Self::unimplemented(format!("{error}; the peer is newer than this program"))
    }
}

impl From<std::str::Utf8Error> for Error {
    fn from(error: std::str::Utf8Error) -> Self {
        Self::invalid(format!("text is not UTF-8: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_survives_the_wire() {
        for class in Class::ALL {
            let mut message = capnp::message::Builder::new_default();
            Error::new(class, "x").write(message.init_root());
            let back = Error::read(true, message.get_root_as_reader()).expect("it is an error");
            assert_eq!(back, Error::new(class, "x"));
        }
    }

    #[test]
    fn errors_are_one_line() {
        assert_eq!(Error::internal("a\n  b\nc").message(), "a b c");
    }

    #[test]
    fn error_numbers_have_classes() {
        let check = |number: i32, class: Class| {
            let error = Error::io("x", std::io::Error::from_raw_os_error(number));
            assert_eq!(error.class(), class, "{error}");
        };
        check(2, Class::NotFound);
        check(13, Class::PermissionDenied);
        check(17, Class::AlreadyExists);
        check(24, Class::ResourceExhausted);
        check(28, Class::ResourceExhausted);
        check(30, Class::FailedPrecondition);
        check(111, Class::Unavailable);
        check(5, Class::Internal);
    }
}
