//! A shared library in this process.

#![allow(unsafe_code, reason = "foreign code is loaded and called")]

use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd, RawFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

use capstan_schema::{Error, Result};
use capstan_sdk::abi::{self, Entry};
use libloading::os::unix::{Library as Loaded, RTLD_LOCAL, RTLD_NOW};
use rustix::io::FdFlags;

use super::verify::Image;

/// Says in a process's environment which descriptor is the library that it runs.
pub(super) const ENVIRONMENT: &str = "CAPSTAN_LIBRARY";

/// Where the system has this process's open files.
const DESCRIPTORS: &str = "/proc/self/fd";

/// What a host of a library answers when it is none of ours, after having said why on stderr.
const REFUSED: u8 = 3;
/// What a host answers for a library that ends its process when it panics; it served it all the same.
pub(super) const ABORTS: &str = "capstan-plugin-aborts";

/// A library that is loaded, and stays so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Library {
    run: unsafe extern "C" fn(RawFd, RawFd) -> i32,
    flags: u32,
}

impl Library {
    /// Loads an image. It must not have been loaded before: the system takes two loads of one file for one.
    ///
    /// # Errors
    /// `Corrupt`: the system cannot load it. `InvalidArgument`: it is no plugin, or one of another ABI.
    pub(super) fn load(image: &OwnedFd) -> Result<Self> {
        let path = fresh_path(image);
        // SAFETY: this runs the library's constructors. Its file is root's alone (verify.rs), and it was loaded in a
        // process of its own before; what it does then is what root wanted to run.
        let library = unsafe { Loaded::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|error| {
            Error::corrupt(format!("the system cannot load it: {}", describe(&error)))
        })?;
        // SAFETY: the type is that of the one symbol of the ABI (plugins/sdk/ABI.md).
        let entry = unsafe { library.get::<extern "C" fn() -> *const Entry>(abi::SYMBOL) };
        let entry = entry.map_err(|_| {
            Error::invalid(
                "it is no plugin: it has no function capstan_plugin; see plugins/sdk/ABI.md",
            )
        })?;
        let entry = entry();
        // Whatever was loaded stays: threads of it may run (the module's documentation).
        let _stays = library.into_raw();
        // SAFETY: by the ABI the function answers a constant that lives as long as the library. The first two
        // fields are the same in every version, and the others are read once those were checked.
        unsafe { check(entry) }
    }

    /// Whether a panic in it can be caught.
    pub(super) fn unwinds(&self) -> bool {
        self.flags & abi::UNWINDS != 0
    }

    /// Serves the plugin on this thread, until the sockets are closed or it ends.
    pub(super) fn run(&self, stream: OwnedFd, descriptors: OwnedFd) -> i32 {
        // SAFETY: by the ABI it takes both descriptors, catches its own panics, and may be called on any thread.
        unsafe { (self.run)(stream.into_raw_fd(), descriptors.into_raw_fd()) }
    }
}

/// A path to an open file under which no library was loaded before. A library's name is the path that it was loaded
/// by, and for one of the same name the system answers the old one, whatever file that is by now: numbers of
/// descriptors come again.
fn fresh_path(image: &OwnedFd) -> String {
    static LOADS: AtomicU32 = AtomicU32::new(0);
    let load = LOADS.fetch_add(1, Ordering::Relaxed);
    // Both lead nowhere else. Together they spell the number of the load.
    let spelt = (0..u32::BITS).map(|bit| if load >> bit & 1 == 1 { "/." } else { "//" });
    format!("{DESCRIPTORS}{}/{}", spelt.collect::<String>(), image.as_raw_fd())
}

fn describe(error: &libloading::Error) -> String {
    // The system names the file by the descriptor, which says nothing to anybody.
    let text =
        std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    match text.split_once(": ") {
        Some((path, text)) if path.starts_with(DESCRIPTORS) => text.to_owned(),
        _ => text,
    }
}

/// # Safety
/// `entry` is null or points to at least the first three fields of an [`Entry`], which do not change.
unsafe fn check(entry: *const Entry) -> Result<Library> {
    if entry.is_null() || !entry.is_aligned() {
        return Err(Error::invalid("it is no plugin: capstan_plugin() answers nothing"));
    }
    // SAFETY: as the caller says. Only these fields are read, one by one.
    let (magic, version, size) = unsafe { ((*entry).magic, (*entry).version, (*entry).size) };
    if magic != abi::MAGIC {
        return Err(Error::invalid("it is no plugin: what capstan_plugin() answers is no entry"));
    }
    if version != abi::VERSION {
        return Err(Error::invalid(format!(
            "it is of ABI version {version}, and this daemon of {}: build it with the SDK of this daemon",
            abi::VERSION
        )));
    }
    if size != abi::SIZE {
        return Err(Error::invalid(format!(
            "its entry has {size} bytes, and that of ABI version {version} has {}",
            abi::SIZE
        )));
    }
    // SAFETY: it is an entry of this version, and complete.
    let entry = unsafe { &*entry };
    let run = entry.run.ok_or_else(|| Error::invalid("it is no plugin: it has nothing to run"))?;
    Ok(Library { run, flags: entry.flags })
}

/// A library for a process of its own: the descriptors are let through to it.
pub(super) fn arguments(image: &Image) -> (String, RawFd) {
    let number = image.memory().as_raw_fd();
    (number.to_string(), number)
}

/// The whole of `capstand plugin-host`: serves the library that the daemon gave to this process.
pub fn host() -> ExitCode {
    let say = |text: &str| {
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{text}\n"));
    };
    match inherited() {
        Err(error) => {
            say(&error.to_string());
            ExitCode::from(REFUSED)
        }
        Ok((library, [stream, descriptors])) => {
            if !library.unwinds() {
                say(ABORTS);
            }
            let code = library.run(stream, descriptors);
            ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
        }
    }
}

fn inherited() -> Result<(Library, [OwnedFd; 2])> {
    let none = || {
        Error::precondition("this is for capstand, which starts it with a library and two sockets")
    };
    let number = std::env::var(ENVIRONMENT).map_err(|_| none())?;
    let number = number.parse::<RawFd>().ok().filter(|&number| number > 2).ok_or_else(none)?;
    // SAFETY: it is only borrowed, and looked at: fcntl fails on a number that is not open.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC).map_err(|_| none())?;
    // SAFETY: it is open, as was just seen, and ours: the daemon made it for this process.
    let image = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(number) };
    // Before the library's own code runs.
    let sockets = abi::inherited()?;
    Ok((Library::load(&image)?, sockets))
}
