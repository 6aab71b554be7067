//! Plain Rust forms of the structs in common.capnp. Edges decode into these once; nothing behind
//! an edge touches a reader.

use std::collections::BTreeMap;

use crate::common_capnp::{descriptor, label, mount, platform};
use crate::list::{read_texts, write_texts};
use crate::{Digest, Error, Result};

/// Labels, ordered by key.
pub type Labels = BTreeMap<String, String>;

/// Reads labels; of a key that stands twice the last one counts.
///
/// # Errors
/// `InvalidArgument`: an empty key, or text that is not UTF-8.
pub fn read_labels(list: capnp::struct_list::Reader<'_, label::Owned>) -> Result<Labels> {
    let mut labels = Labels::new();
    for label in list {
        let key = label.get_key()?.to_str()?;
        if key.is_empty() {
            return Err(Error::invalid("a label needs a key: write KEY=VALUE"));
        }
        labels.insert(key.to_owned(), label.get_value()?.to_str()?.to_owned());
    }
    Ok(labels)
}

/// Sets labels and keeps the others; an empty value removes the key.
pub fn merge_labels(labels: &mut Labels, changes: &Labels) {
    for (key, value) in changes {
        if value.is_empty() {
            labels.remove(key);
        } else {
            labels.insert(key.clone(), value.clone());
        }
    }
}

/// Fills a list that was made as long as `labels`.
pub fn write_labels(labels: &Labels, mut list: capnp::struct_list::Builder<'_, label::Owned>) {
    for (index, (key, value)) in (0..).zip(labels) {
        let mut label = list.reborrow().get(index);
        label.set_key(key);
        label.set_value(value);
    }
}

/// What can stand alone for a Linux on it.
const KNOWN_ARCHITECTURES: [&str; 9] =
    ["386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x"];

/// An operating system and a processor, in the words of Go (OCI image-spec, image-index.md).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `v7`, or empty.
    pub variant: String,
}

impl Platform {
    /// The machine that this program was built for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        let variant = if architecture == "arm" { "v7" } else { "" };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }

    /// `os/architecture[/variant]`, or the architecture of a Linux alone; empty text is the host.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::host());
        }
        let parts: Vec<&str> = text.split('/').collect();
        let is_word = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let (os, architecture, variant) = match parts[..] {
            [architecture] => ("linux", architecture, ""),
            [os, architecture] => (os, architecture, ""),
            [os, architecture, variant] => (os, architecture, variant),
            _ => ("", "", ""),
        };
        let mut platform =
            Self { os: os.into(), architecture: architecture.into(), variant: variant.into() };
        platform.normalize();
        let is_known =
            || parts.len() > 1 || KNOWN_ARCHITECTURES.contains(&platform.architecture.as_str());
        match platform.os.is_empty() || !parts.iter().all(is_word) || !is_known() {
            false => Ok(platform),
            true => Err(Error::invalid(format!(
                "platform {text:?}: write os/architecture[/variant], such as linux/amd64"
            ))),
        }
    }

    /// Writes the spellings that mean the same in one way, as containerd does: `x86_64` is
    /// `amd64`, `aarch64` is `arm64`, `armhf` is `arm/v7`, and arm64's `v8` is the plain form.
    pub fn normalize(&mut self) {
        for part in [&mut self.os, &mut self.architecture, &mut self.variant] {
            part.make_ascii_lowercase();
        }
        let (architecture, variant) = match (self.architecture.as_str(), self.variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("i386", _) => ("386", ""),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64" | "arm64", "9" | "v9.0") => ("arm64", "v9"),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            _ => return,
        };
        (self.architecture, self.variant) = (architecture.to_owned(), variant.to_owned());
    }

    /// Reads one; missing fields are empty.
    ///
    /// # Errors
    /// What Cap'n Proto finds wrong.
    pub fn read(reader: platform::Reader<'_>) -> Result<Self> {
        Ok(Self {
            os: reader.get_os()?.to_str()?.into(),
            architecture: reader.get_architecture()?.to_str()?.into(),
            variant: reader.get_variant()?.to_str()?.into(),
        })
    }

    /// Writes one.
    pub fn write(&self, mut builder: platform::Builder<'_>) {
        builder.set_os(&self.os);
        builder.set_architecture(&self.architecture);
        builder.set_variant(&self.variant);
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

/// What points at a blob: its kind, its name, its size (OCI image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The media type.
    pub media_type: String,
    /// The digest of the bytes.
    pub digest: Digest,
    /// How many bytes.
    pub size: u64,
    /// The platform, where an index gives one.
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// Reads one.
    ///
    /// # Errors
    /// `InvalidArgument`: the digest does not parse.
    pub fn read(reader: descriptor::Reader<'_>) -> Result<Self> {
        Ok(Self {
            media_type: reader.get_media_type()?.to_str()?.into(),
            digest: Digest::parse(reader.get_digest()?.to_str()?)?,
            size: reader.get_size(),
            platform: match reader.has_platform() {
                true => Some(Platform::read(reader.get_platform()?)?),
                false => None,
            },
        })
    }

    /// Writes one.
    pub fn write(&self, mut builder: descriptor::Builder<'_>) {
        builder.set_media_type(&self.media_type);
        builder.set_digest(self.digest.as_str());
        builder.set_size(self.size);
        if let Some(platform) = &self.platform {
            platform.write(builder.init_platform());
        }
    }
}

/// What mount(2) needs, apart from the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// `overlay`, `bind`, ...
    pub kind: String,
    /// A device, a directory, or a word.
    pub source: String,
    /// fstab words.
    pub options: Vec<String>,
}

impl Mount {
    /// Reads one.
    ///
    /// # Errors
    /// What Cap'n Proto finds wrong.
    pub fn read(reader: mount::Reader<'_>) -> Result<Self> {
        Ok(Self {
            kind: reader.get_type()?.to_str()?.into(),
            source: reader.get_source()?.to_str()?.into(),
            options: read_texts(reader.get_options()?)?,
        })
    }

    /// Writes one.
    pub fn write(&self, mut builder: mount::Builder<'_>) {
        builder.set_type(&self.kind);
        builder.set_source(&self.source);
        let count = u32::try_from(self.options.len()).expect("a mount has few options");
        write_texts(&self.options, builder.init_options(count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: Option<&str>) {
        let got = Platform::parse(text).ok().map(|p| p.to_string());
        assert_eq!(got.as_deref(), want, "{text:?}");
    }

    #[test]
    fn platforms_are_normalized() {
        check("linux/amd64", Some("linux/amd64"));
        check("linux/x86_64", Some("linux/amd64"));
        check("Linux/AMD64/v1", Some("linux/amd64"));
        check("linux/amd64/v3", Some("linux/amd64/v3"));
        check("linux/aarch64", Some("linux/arm64"));
        check("linux/arm64/v8", Some("linux/arm64"));
        check("linux/arm64/8", Some("linux/arm64"));
        check("linux/arm64/v8.0", Some("linux/arm64"));
        check("linux/arm64/v8.2", Some("linux/arm64/v8.2"));
        check("linux/arm64/v9.0", Some("linux/arm64/v9"));
        check("linux/arm", Some("linux/arm/v7"));
        check("linux/arm/7", Some("linux/arm/v7"));
        check("linux/arm/6", Some("linux/arm/v6"));
        check("linux/arm/v5", Some("linux/arm/v5"));
        check("linux/armhf", Some("linux/arm/v7"));
        check("linux/armel", Some("linux/arm/v6"));
        check("linux/i386", Some("linux/386"));
        check("windows/amd64", Some("windows/amd64"));
        check("arm64", Some("linux/arm64"));
        check("X86_64", Some("linux/amd64"));
        check("armhf", Some("linux/arm/v7"));
        check("linux", None);
        check("/", None);
        check("/amd64", None);
        check("linux/amd64/", None);
        check("linux/", None);
        check("a/b/c/d", None);
        check("linux/amd 64", None);
        assert_eq!(Platform::parse("").unwrap(), Platform::host());
    }
}
