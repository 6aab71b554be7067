//! The boundary of a shared library (ABI.md): one C function, and what it answers.
//!
//! No Rust type, no allocation and no panic crosses it. The daemon calls [`capstan_plugin`], looks at the
//! [`Entry`], and gives `run` a thread and two sockets; all else is Cap'n Proto. So a plugin may be built by any
//! compiler, with any versions of any dependencies, in any language that can make a shared library.
//!
//! Invariant: the only unsafe code of the SDK is in here.

#![allow(unsafe_code, reason = "a C entry, and descriptors that come as numbers")]

use std::any::Any;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::panic::catch_unwind;

use capstan_schema::{Error, Result};

/// The version of the boundary. A daemon loads plugins of its own version and refuses others.
pub const VERSION: u32 = 1;

/// `capstan\0`.
pub const MAGIC: [u8; 8] = *b"capstan\0";

/// The name of the one C function.
pub const SYMBOL: &[u8] = b"capstan_plugin\0";

/// A panic in the plugin unwinds, so that it can be caught. Without it a panic ends the process that the library
/// is in: such a library runs in a process of its own only.
pub const UNWINDS: u32 = 1;

/// What `run` answers when all was well.
pub const FINE: i32 = 0;
/// What `run` answers when it could not serve; it said why on stderr.
pub const FAILED: i32 = 1;
/// What `run` answers after a panic that nobody caught.
pub const PANICKED: i32 = 101;

/// What a library says about itself. It is constant, and lives as long as the library.
#[repr(C)]
#[derive(Debug)]
pub struct Entry {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: u32,
    /// Bytes of this struct: the check that both sides lay it out alike.
    pub size: u32,
    /// [`UNWINDS`].
    pub flags: u32,
    /// 0.
    pub reserved: u32,
    /// Serves the plugin over two sockets, which it then owns, until they are closed or the plugin ends. It takes the
    /// thread that calls it, and may be called on several threads: each call is an instance of its own.
    pub run: Option<unsafe extern "C" fn(stream: RawFd, descriptors: RawFd) -> i32>,
}

/// Bytes of an [`Entry`].
#[expect(clippy::cast_possible_truncation, reason = "it has 32 bytes")]
pub const SIZE: u32 = size_of::<Entry>() as u32;

static ENTRY: Entry = Entry {
    magic: MAGIC,
    version: VERSION,
    size: SIZE,
    flags: if cfg!(panic = "unwind") { UNWINDS } else { 0 },
    reserved: 0,
    run: Some(run),
};

/// The one function of a plugin's library.
#[unsafe(no_mangle)]
pub extern "C" fn capstan_plugin() -> *const Entry {
    &ENTRY
}

unsafe extern "C" fn run(stream: RawFd, descriptors: RawFd) -> i32 {
    // SAFETY: the caller gives both descriptors away, as the documentation of `Entry::run` says.
    let (stream, descriptors) =
        unsafe { (OwnedFd::from_raw_fd(stream), OwnedFd::from_raw_fd(descriptors)) };
    match catch_unwind(|| crate::outside::serve(stream, descriptors)) {
        Ok(Ok(())) => FINE,
        Ok(Err(error)) => {
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{error}\n"));
            FAILED
        }
        Err(_) => PANICKED,
    }
}

/// The sockets that the daemon gave to this process: stream and descriptors.
///
/// # Errors
/// `FailedPrecondition`: it was not started by a daemon.
pub fn inherited() -> Result<[OwnedFd; 2]> {
    let variable = crate::outside::ENVIRONMENT;
    let none = || {
        Error::precondition(format!(
            "{variable} is not set: this is a plugin of capstan, and is started by capstand"
        ))
    };
    let value = std::env::var(variable).map_err(|_| none())?;
    let (stream, descriptors) = value.split_once(',').ok_or_else(none)?;
    let number = |text: &str| text.parse::<RawFd>().ok().filter(|&number| number > 2);
    let numbers = [number(stream).ok_or_else(none)?, number(descriptors).ok_or_else(none)?];
    for number in numbers {
        // SAFETY: it is only borrowed, and looked at: fcntl fails on a number that is not open.
        let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        let flags = rustix::io::FdFlags::CLOEXEC;
        rustix::io::fcntl_setfd(borrowed, flags).map_err(|_| none())?;
    }
    // SAFETY: they are open, as was just seen, and ours: the daemon made them for this process, which takes them
    // once, at the start of its main function.
    Ok(numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }))
}

/// What a panic said.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
