//! How values of flags are written.

use capstan_client::Error;
use capstan_client::schema::parse_bytes;

#[derive(Clone, Debug, Default)]
pub(crate) struct MountFlag {
    pub(super) kind: String,
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) options: Vec<String>,
}

/// `type=bind,src=/a,dst=/b,options=ro:nosuid`.
pub(super) fn mount(text: &str) -> Result<MountFlag, String> {
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
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|error| error.message().to_owned())
}

/// `size=10g`, of `--storage-opt`.
pub(crate) fn storage(text: &str) -> Result<u64, Error> {
    let bad = || {
        Error::invalid(format!(
            "--storage-opt {text:?}: write size=BYTES, above 0, such as size=10g"
        ))
    };
    let size = text.strip_prefix("size=").ok_or_else(bad)?;
    bytes(size).ok().filter(|&size| size > 0).ok_or_else(bad)
}

/// `1.5` as thousandths.
pub(crate) fn cpus(text: &str) -> Result<u64, String> {
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

/// Splits `SRC:DST[:OPT,..]`.
pub(super) fn volume(text: &str) -> Result<MountFlag, String> {
    let mut parts = text.splitn(3, ':');
    let (source, destination) =
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if !source.starts_with('/') || !destination.starts_with('/') {
        return Err("write SRC:DST[:OPT,..], both absolute paths".into());
    }
    let options = parts.next().map_or_else(Vec::new, words);
    Ok(MountFlag {
        kind: "bind".into(),
        source: source.into(),
        destination: destination.into(),
        options,
    })
}

/// Splits `DST[:OPT,..]`.
pub(super) fn tmpfs(text: &str) -> Result<MountFlag, String> {
    let (destination, options) = text.split_once(':').unwrap_or((text, ""));
    if !destination.starts_with('/') {
        return Err("write DST[:OPT,..], DST an absolute path".into());
    }
    let usual = ["nosuid", "nodev", "noexec", "mode=1777"].map(str::to_owned);
    // The last word counts.
    let options = usual.into_iter().chain(words(options)).collect();
    Ok(MountFlag {
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        destination: destination.into(),
        options,
    })
}

fn words(text: &str) -> Vec<String> {
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Bytes, or -1 for any.
pub(crate) fn swap(text: &str) -> Result<u64, String> {
    if text == "-1" { Ok(u64::MAX) } else { bytes(text) }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceFlag {
    pub(super) host: String,
    pub(super) container: String,
    pub(super) access: String,
}

/// `HOST[:CONTAINER[:rwm]]`, or `HOST:rwm`.
pub(super) fn device(text: &str) -> Result<DeviceFlag, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, access) = match parts[..] {
        [host] => (host, "", ""),
        [host, container] if container.starts_with('/') => (host, container, ""),
        [host, access] => (host, "", access),
        [host, container, access] => (host, container, access),
        _ => return Err(format!("{text:?}: write HOST[:CONTAINER[:rwm]]")),
    };
    Ok(DeviceFlag { host: host.into(), container: container.into(), access: access.into() })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UlimitFlag {
    pub(super) kind: String,
    pub(super) soft: u64,
    pub(super) hard: u64,
}

/// `nofile=1024:4096`, `core=unlimited`.
pub(super) fn ulimit(text: &str) -> Result<UlimitFlag, String> {
    let bad = || format!("{text:?}: write TYPE=SOFT[:HARD], numbers or unlimited");
    let number = |text: &str| match text {
        "unlimited" | "-1" => Ok(u64::MAX),
        text => text.parse().map_err(|_| bad()),
    };
    let (kind, limits) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    Ok(UlimitFlag { kind: kind.into(), soft: number(soft)?, hard: number(hard)? })
}

/// Ids in the container, on the machine, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Idmap(pub(super) Vec<(u32, u32, u32)>);

/// `0:100000:65536[,..]`.
pub(super) fn idmap(text: &str) -> Result<Idmap, String> {
    let one = |text: &str| {
        let parts: Vec<u32> = text.split(':').map(str::parse).collect::<Result<_, _>>().ok()?;
        match parts[..] {
            [container, host, size] => Some((container, host, size)),
            _ => None,
        }
    };
    let all: Option<Vec<_>> = text.split(',').map(one).collect();
    all.map(Idmap)
        .ok_or_else(|| format!("{text:?}: write CONTAINER:HOST:SIZE[,..], such as 0:100000:65536"))
}

/// Whose namespace a container is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shared {
    Private,
    Host,
    Path(String),
}

impl Shared {
    /// Of the namespace to use; empty = the host's; `None` = a new one.
    pub(super) fn path(&self) -> Option<&str> {
        match self {
            Self::Private => None,
            Self::Host => Some(""),
            Self::Path(path) => Some(path),
        }
    }
}

/// `private`, `host`, `ns:PATH`.
pub(super) fn shared(text: &str) -> Result<Shared, String> {
    match text {
        "private" => Ok(Shared::Private),
        "host" => Ok(Shared::Host),
        _ => match text.strip_prefix("ns:") {
            Some(path) if path.starts_with('/') => Ok(Shared::Path(path.into())),
            _ => Err("write private, host, or ns:PATH".into()),
        },
    }
}

/// As [`shared`], and `none`.
pub(super) fn net(text: &str) -> Result<Shared, String> {
    match text {
        "none" => Ok(Shared::Private),
        text => shared(text).map_err(|_| "write private, none, host, or ns:PATH".into()),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Security {
    NoNewPrivileges(bool),
    Seccomp(String),
    Mask(Vec<String>),
    Unmask(Vec<String>),
}

/// As Docker and podman write it.
pub(super) fn security(text: &str) -> Result<Security, String> {
    let paths = |text: &str| text.split(':').map(str::to_owned).collect();
    match text.split_once(['=', ':']).unwrap_or((text, "")) {
        ("no-new-privileges", "" | "true") => Ok(Security::NoNewPrivileges(true)),
        ("no-new-privileges", "false") => Ok(Security::NoNewPrivileges(false)),
        ("seccomp", profile) if !profile.is_empty() => Ok(Security::Seccomp(profile.into())),
        ("mask", list) if !list.is_empty() => Ok(Security::Mask(paths(list))),
        ("unmask", list) if !list.is_empty() => Ok(Security::Unmask(paths(list))),
        _ => Err(format!(
            "{text:?}: write no-new-privileges[=BOOL], seccomp=FILE|unconfined, mask=PATH[:PATH] or \
             unmask=ALL|PATH[:PATH]"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn shorthands_are_mounts() {
        let show = |flag: Result<MountFlag, String>| {
            let flag = flag.ok()?;
            Some(format!(
                "{} {} {} {}",
                flag.kind,
                flag.source,
                flag.destination,
                flag.options.join(",")
            ))
        };
        let check = |text: &str, want: Option<&str>| {
            assert_eq!(show(volume(text)).as_deref(), want, "{text}");
        };
        check("/a:/b", Some("bind /a /b "));
        check("/a:/b:ro,nosuid", Some("bind /a /b ro,nosuid"));
        check("/a", None);
        check("a:/b", None);
        check("/a:b", None);
        let usual = "nosuid,nodev,noexec,mode=1777";
        assert_eq!(show(tmpfs("/t")), Some(format!("tmpfs tmpfs /t {usual}")));
        assert_eq!(
            show(tmpfs("/t:exec,size=1m")),
            Some(format!("tmpfs tmpfs /t {usual},exec,size=1m"))
        );
        assert_eq!(show(tmpfs("t")), None);
    }

    #[test]
    fn words_of_docker_and_podman_are_understood() {
        let ulimits = |text: &str| ulimit(text).ok().map(|u| (u.kind, u.soft, u.hard));
        assert_eq!(ulimits("nofile=5"), Some(("nofile".into(), 5, 5)));
        assert_eq!(ulimits("nofile=5:6"), Some(("nofile".into(), 5, 6)));
        assert_eq!(ulimits("core=-1:unlimited"), Some(("core".into(), u64::MAX, u64::MAX)));
        assert_eq!(ulimits("nofile"), None);
        assert_eq!(ulimits("nofile=x"), None);
        let devices =
            |text: &str| device(text).ok().map(|d| [d.host, d.container, d.access].join(" "));
        assert_eq!(devices("/dev/a"), Some("/dev/a  ".into()));
        assert_eq!(devices("/dev/a:/dev/b"), Some("/dev/a /dev/b ".into()));
        assert_eq!(devices("/dev/a:/dev/b:r"), Some("/dev/a /dev/b r".into()));
        assert_eq!(devices("/dev/a:rw"), Some("/dev/a  rw".into()));
        assert_eq!(devices("/dev/a:/b:r:x"), None);
        assert_eq!(idmap("0:1:2,3:4:5").unwrap().0, [(0, 1, 2), (3, 4, 5)]);
        for bad in ["", "0:1", "0:1:2:3", "a:b:c", "0:1:2,", "-1:0:1"] {
            assert!(idmap(bad).is_err(), "{bad}");
        }
        assert_eq!(shared("ns:/a").unwrap().path(), Some("/a"));
        assert_eq!(shared("host").unwrap().path(), Some(""));
        assert_eq!(net("none").unwrap().path(), None);
        assert!(shared("none").is_err() && shared("ns:a").is_err());
        assert_eq!(security("no-new-privileges").unwrap(), Security::NoNewPrivileges(true));
        assert_eq!(security("no-new-privileges:false").unwrap(), Security::NoNewPrivileges(false));
        assert_eq!(
            security("unmask=/a:/b").unwrap(),
            Security::Unmask(vec!["/a".into(), "/b".into()])
        );
        assert!(security("apparmor=x").is_err() && security("mask").is_err());
        assert_eq!((swap("-1").unwrap(), swap("1k").unwrap()), (u64::MAX, 1024));
    }
}
