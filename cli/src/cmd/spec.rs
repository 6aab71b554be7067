//! The flags that describe a container: shared by `run`, `containers create` and `oci spec`.

use capstan_client::schema::container_capnp::{Network, container_spec};
use capstan_client::schema::{write_labels, write_texts};
use capstan_client::{Error, Result};
use clap::{Args, ValueEnum};

use crate::args::pair;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Net {
    /// The host's network namespace
    Host,
    /// The same as private
    None,
    /// A namespace of its own, with loopback
    Private,
}

#[derive(Debug, Args)]
pub(crate) struct SpecFlags {
    /// Give init a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Environment, added to the image's
    #[arg(short, long, value_name = "K=V")]
    env: Vec<String>,
    /// Working directory [default: the image's, else /]
    #[arg(short, long, value_name = "D")]
    workdir: Option<String>,
    /// User, by name or number [default: the image's, else root]
    #[arg(short, long, value_name = "U[:G]")]
    user: Option<String>,
    /// Mount: type=bind,src=/a,dst=/b,options=ro:nosuid
    #[arg(long, value_parser = mount)]
    mount: Vec<MountFlag>,
    /// Make the root filesystem read-only
    #[arg(long)]
    read_only: bool,
    /// Memory limit, in bytes or with k, m, g
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<u64>,
    /// CPU limit, in CPUs, such as 1.5
    #[arg(long, value_name = "N", value_parser = cpus)]
    cpus: Option<u64>,
    /// Limit of processes and threads
    #[arg(long, value_name = "N")]
    pids_limit: Option<u64>,
    /// Add a capability, or ALL
    #[arg(long, value_name = "C")]
    cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "C")]
    cap_drop: Vec<String>,
    /// All capabilities and devices, no masks, no seccomp
    #[arg(long)]
    privileged: bool,
    /// A seccomp profile (OCI JSON), or "unconfined" [default: the built-in profile]
    #[arg(long, value_name = "FILE|unconfined")]
    seccomp: Option<String>,
    /// Host name [default: the container id]
    #[arg(long, value_name = "H")]
    hostname: Option<String>,
    /// Network
    #[arg(long, value_enum, default_value_t = Net::Private)]
    net: Net,
    /// Snapshotter for the root filesystem [default: the preferred one]
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshotter: Option<String>,
    /// OCI runtime: embedded, runc, crun, ... [default: the daemon's]
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    /// Labels
    #[arg(short, long, value_name = "K=V", value_parser = pair)]
    label: Vec<(String, String)>,
    /// Use this directory as root filesystem, as it is, instead of an image
    #[arg(long, value_name = "DIR")]
    rootfs: Option<String>,
    /// Use this runtime spec instead of one that is made from flags and image
    #[arg(long, value_name = "SPEC.json")]
    config: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct MountFlag {
    kind: String,
    source: String,
    destination: String,
    options: Vec<String>,
}

/// `type=bind,src=/a,dst=/b,options=ro:nosuid`.
fn mount(text: &str) -> std::result::Result<MountFlag, String> {
    let mut mount = MountFlag::default();
    for word in text.split(',') {
        match word.split_once('=') {
            Some(("type", value)) => mount.kind = value.into(),
            Some(("src" | "source", value)) => mount.source = value.into(),
            Some(("dst" | "dest" | "destination" | "target", value)) => {
                mount.destination = value.into();
            }
            Some(("options" | "opts", value)) => {
                mount.options.extend(value.split(':').map(str::to_owned));
            }
            None if matches!(word, "ro" | "readonly") => mount.options.push("ro".into()),
            _ => return Err(format!("{word:?}: use type=, src=, dst=, options=")),
        }
    }
    if !mount.destination.starts_with('/') {
        return Err("dst= must be an absolute path in the container".into());
    }
    Ok(mount)
}

/// `1073741824`, `512m`, `1g`.
pub(crate) fn bytes(text: &str) -> std::result::Result<u64, String> {
    let bad = || format!("{text:?}: write bytes, or a number with k, m or g");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| bad())?;
    let shift = match text[digits..].to_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(bad()),
    };
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// `1.5` as thousandths.
pub(crate) fn cpus(text: &str) -> std::result::Result<u64, String> {
    let bad = || format!("{text:?}: write a number of CPUs above 0, such as 0.5 or 2");
    let number: f64 = text.parse().map_err(|_| bad())?;
    let millis = (number * 1000.0).round();
    if !(1.0..=1e9).contains(&millis) {
        return Err(bad());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 1e9, checked above"
    )]
    Ok(millis as u64)
}

fn count<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

fn read(path: &str, limit: u64) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let fail = |error| Error::io(format!("read {path}"), error);
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .map_err(fail)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > limit {
        return Err(Error::invalid(format!("{path}: larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Longest spec or profile that makes sense, in bytes.
const MAX_DOCUMENT: u64 = 4 << 20;

impl SpecFlags {
    /// Writes the flags into a request. `image` is a name, or a directory with `--rootfs`.
    pub(crate) fn write(
        &self,
        image: &str,
        args: &[String],
        mut out: container_spec::Builder<'_>,
    ) -> Result<()> {
        out.set_image(image);
        write_texts(args, out.reborrow().init_args(count(args)));
        write_texts(&self.env, out.reborrow().init_env(count(&self.env)));
        out.set_workdir(self.workdir.as_deref().unwrap_or_default());
        out.set_user(self.user.as_deref().unwrap_or_default());
        out.set_hostname(self.hostname.as_deref().unwrap_or_default());
        let mut mounts = out.reborrow().init_mounts(count(&self.mount));
        for (index, mount) in (0..).zip(&self.mount) {
            let mut out = mounts.reborrow().get(index);
            out.set_type(&mount.kind);
            out.set_source(&mount.source);
            out.set_destination(&mount.destination);
            write_texts(&mount.options, out.init_options(count(&mount.options)));
        }
        out.set_read_only(self.read_only);
        out.set_memory_bytes(self.memory.unwrap_or(0));
        out.set_cpu_millis(self.cpus.unwrap_or(0));
        out.set_pids_limit(self.pids_limit.unwrap_or(0));
        write_texts(&self.cap_add, out.reborrow().init_cap_add(count(&self.cap_add)));
        write_texts(&self.cap_drop, out.reborrow().init_cap_drop(count(&self.cap_drop)));
        out.set_privileged(self.privileged);
        match self.seccomp.as_deref() {
            None => {}
            Some("unconfined") => out.set_seccomp("unconfined"),
            Some(path) => {
                let profile = read(path, MAX_DOCUMENT)?;
                let profile = String::from_utf8(profile)
                    .map_err(|_| Error::invalid(format!("{path}: a seccomp profile is JSON")))?;
                out.set_seccomp(&*profile);
            }
        }
        out.set_network(match self.net {
            Net::Host => Network::Host,
            Net::None => Network::None,
            Net::Private => Network::Private,
        });
        out.set_terminal(self.tty);
        out.set_rootfs(self.rootfs.as_deref().unwrap_or_default());
        if let Some(path) = &self.config {
            out.set_oci_spec(&read(path, MAX_DOCUMENT)?);
        }
        out.set_snapshotter(self.snapshotter.as_deref().unwrap_or_default());
        out.set_runtime(self.runtime.as_deref().unwrap_or_default());
        let labels = self.label.iter().cloned().collect();
        write_labels(&labels, out.init_labels(u32::try_from(labels.len()).unwrap_or(u32::MAX)));
        Ok(())
    }

    /// Whether the first argument is part of the command, not an image.
    pub(crate) fn has_rootfs(&self) -> bool {
        self.rootfs.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let check = |text: &str, want: Option<u64>| assert_eq!(bytes(text).ok(), want, "{text:?}");
        check("1024", Some(1024));
        check("64m", Some(64 << 20));
        check("1G", Some(1 << 30));
        check("2GiB", Some(2 << 30));
        check("5kb", Some(5 << 10));
        check("", None);
        check("m", None);
        check("1x", None);
        check("99999999999999999999", None);
        check("999999999999t", None);
    }

    #[test]
    fn cpus_are_thousandths() {
        let check = |text: &str, want: Option<u64>| assert_eq!(cpus(text).ok(), want, "{text:?}");
        check("1", Some(1000));
        check("0.5", Some(500));
        check("0", None);
        check("-1", None);
        check("nan", None);
        check("inf", None);
    }

    #[test]
    fn mounts_are_words() {
        let good = mount("type=bind,src=/a,dst=/b,options=ro:nosuid").unwrap();
        assert_eq!((good.kind.as_str(), good.source.as_str()), ("bind", "/a"));
        assert_eq!(good.options, ["ro", "nosuid"]);
        assert!(mount("source=/a,destination=/b").is_ok());
        assert!(mount("src=/a,dest=/b").is_ok());
        assert!(mount("src=/a").is_err());
        assert!(mount("src=/a,dst=b").is_err());
        assert!(mount("src=/a,dst=/b,foo=1").is_err());
    }
}
