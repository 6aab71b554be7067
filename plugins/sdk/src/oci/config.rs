//! Image configurations (OCI image-spec, config.md).

use capstan_schema::{Digest, Error, Platform, Result};
use serde::Deserialize;

use super::object::{Object, from_object};

/// The part of an image configuration that a daemon needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// What the image was made for.
    pub platform: Platform,
    /// Digests of the uncompressed layers, base first.
    pub diff_ids: Vec<Digest>,
    /// `K=V`.
    pub env: Vec<String>,
    /// The command, in front of `cmd`.
    pub entrypoint: Vec<String>,
    /// The command's default arguments, or the command.
    pub cmd: Vec<String>,
    /// Empty = `/`.
    pub workdir: String,
    /// `user[:group]`, names or numbers; empty = root.
    pub user: String,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
    rootfs: Object<RawRootfs>,
    config: Option<Object<RawConfig>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
}

impl ImageConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// `Corrupt`: it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let bad = |why: String| Error::corrupt(format!("image configuration: {why}"));
        let raw: Raw = from_object(bytes).map_err(|error| bad(error.to_string()))?;
        let Object(rootfs) = raw.rootfs;
        if rootfs.kind != "layers" {
            return Err(bad(format!("rootfs of type {:?}; only layers are known", rootfs.kind)));
        }
        let diff_ids: Result<_> = rootfs.diff_ids.iter().map(|text| Digest::parse(text)).collect();
        let config = raw.config.map(|Object(config)| config).unwrap_or_default();
        let mut platform =
            Platform { os: raw.os, architecture: raw.architecture, variant: raw.variant };
        platform.normalize();
        Ok(Self {
            platform,
            diff_ids: diff_ids.map_err(|error| bad(error.message().to_owned()))?,
            env: config.env.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            workdir: config.working_dir.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_defaults() {
        let config = ImageConfig::parse(
            br#"{"os":"linux","architecture":"aarch64","rootfs":{"type":"layers","diff_ids":[]}}"#,
        );
        let config = config.unwrap();
        assert_eq!(config.platform.to_string(), "linux/arm64");
        assert!(config.env.is_empty() && config.cmd.is_empty() && config.user.is_empty());
        let config = ImageConfig::parse(
            br#"{"rootfs":{"type":"layers","diff_ids":[]},"config":{"Cmd":null,"Env":["A=1"],
                "Entrypoint":["/bin/x"],"WorkingDir":"/w","User":"1:2","Labels":{"a":"b"}}}"#,
        );
        let config = config.unwrap();
        assert_eq!(
            (config.env, config.entrypoint),
            (vec!["A=1".to_owned()], vec!["/bin/x".to_owned()])
        );
        assert_eq!((config.workdir.as_str(), config.user.as_str()), ("/w", "1:2"));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"rootfs":{"type":"x","diff_ids":[]}}"#,
            r#"{"rootfs":{"type":"layers","diff_ids":["nonsense"]}}"#,
            r#"{"rootfs":["layers",[]]}"#,
            r#"["linux","amd64","",{"type":"layers","diff_ids":[]},null]"#,
            r#"{"rootfs":{"type":"layers","diff_ids":[]},"config":{"Env":"A=1"}}"#,
        ] {
            assert!(ImageConfig::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
