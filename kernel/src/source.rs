//! A plugin that the kernel knows of: what it is, where it is from, what makes instances of it.

use std::fmt;
use std::rc::Rc;

use capstan_sdk::{Factory, Manifest, PluginDescriptor, abi};

use crate::loader::Image;

/// Where a plugin is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Compiled in.
    Static,
    /// A shared library, on a thread of the daemon. With the file it is from.
    Cdylib(String),
    /// A process of its own. With the file, command or socket.
    Remote(String),
}

impl Source {
    /// The word that users see.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Cdylib(_) => "cdylib",
            Self::Remote(_) => "remote",
        }
    }

    /// File, command or socket; empty for what is compiled in.
    pub fn origin(&self) -> &str {
        match self {
            Self::Static => "",
            Self::Cdylib(origin) | Self::Remote(origin) => origin,
        }
    }

    /// The version of the boundary; 0 for what has none.
    pub fn abi(&self) -> u32 {
        match self {
            Self::Static => 0,
            Self::Cdylib(_) | Self::Remote(_) => abi::VERSION,
        }
    }
}

/// The same for all sources.
#[derive(Clone)]
pub struct Candidate {
    /// What it is.
    pub manifest: Manifest,
    /// Where it is from.
    pub source: Source,
    /// What makes instances.
    pub factory: Rc<dyn Factory>,
    /// The library, as it was checked and loaded, if it is one.
    pub(crate) image: Option<Rc<Image>>,
}

impl Candidate {
    /// Whether it comes from a process, which may not be there yet.
    pub(crate) fn is_from_process(&self) -> bool {
        matches!(self.source, Source::Remote(_))
    }

    /// Whether it comes from a process that did not say yet what it is.
    pub(crate) fn is_unknown(&self) -> bool {
        self.is_from_process() && self.manifest.version.is_empty()
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Candidate({}, {:?})", self.manifest.id, self.source)
    }
}

impl From<PluginDescriptor> for Candidate {
    fn from(descriptor: PluginDescriptor) -> Self {
        Self {
            manifest: Manifest::from(&descriptor.info),
            source: Source::Static,
            factory: Rc::new(descriptor),
            image: None,
        }
    }
}
