//! Hooks: programs that the runtime runs at steps of a container's life, as root. They come from the
//! daemon's configuration and from nowhere else, and nobody but root may be able to change them.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use capstan_sdk::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// All that a hook finds in its environment: it may rely on nothing of the daemon's.
const ENVIRONMENT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// When a hook is run (runtime-spec, config.md, "POSIX-platform Hooks").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Moment {
    /// When the namespaces are made, before the root filesystem is entered.
    CreateRuntime,
    /// After the container was started.
    Poststart,
    /// After it was deleted.
    Poststop,
}

/// A hook.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// When it is run.
    pub when: Moment,
    /// Absolute path of the program. It and all directories above it must be root's, and writable by
    /// nobody else.
    pub path: String,
    /// Its arguments, without its name. Default: none.
    #[serde(default)]
    pub args: Vec<String>,
    /// After so many seconds it is killed, and the step fails. Default: 10.
    #[serde(default = "usual_timeout")]
    pub timeout_seconds: u32,
}

fn usual_timeout() -> u32 {
    10
}

/// `hooks` of a runtime spec; `Null` if there are none.
///
/// # Errors
/// `InvalidArgument`: a path that is not absolute. `PermissionDenied`: somebody else than root may
/// change the program. `NotFound`.
pub(crate) fn all(hooks: &[Hook]) -> Result<Value> {
    let mut all = Value::Null;
    for hook in hooks {
        check(&hook.path)?;
        let mut args = vec![hook.path.clone()];
        args.extend(hook.args.iter().cloned());
        let when = match hook.when {
            Moment::CreateRuntime => "createRuntime",
            Moment::Poststart => "poststart",
            Moment::Poststop => "poststop",
        };
        if all[when].is_null() {
            all[when] = json!([]);
        }
        all[when].as_array_mut().expect("it was just made").push(json!({
            "path": hook.path, "args": args, "env": [ENVIRONMENT], "timeout": hook.timeout_seconds,
        }));
    }
    Ok(all)
}

fn check(path: &str) -> Result<()> {
    let what = format!("hook {path:?}");
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(Error::invalid(format!("{what}: write an absolute path without \"..\"")));
    }
    let real = std::fs::canonicalize(path).map_err(|error| Error::io(&what, error))?;
    for step in real.ancestors().chain(Path::new(path).ancestors()) {
        let about = std::fs::metadata(step).map_err(|error| Error::io(&what, error))?;
        // In a directory with the sticky bit nobody can put another's file away.
        let is_sticky = about.is_dir() && about.mode() & 0o1000 != 0;
        if about.uid() != 0 || (about.mode() & 0o022 != 0 && !is_sticky) {
            return Err(Error::denied(format!(
                "{what}: others than root may change {}; chown root and chmod go-w",
                step.display()
            )));
        }
    }
    let about = std::fs::metadata(&real).map_err(|error| Error::io(&what, error))?;
    if !about.is_file() || about.mode() & 0o100 == 0 {
        return Err(Error::invalid(format!("{what}: it is no program")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use capstan_sdk::Class;
    use std::os::unix::fs::PermissionsExt as _;

    fn hook(path: &str) -> Hook {
        Hook {
            when: Moment::Poststop,
            path: path.into(),
            args: vec!["a".into()],
            timeout_seconds: 3,
        }
    }

    #[test]
    fn a_hook_has_an_environment_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("hook");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        let path = program.to_str().unwrap();
        let mode = |mode: u32| {
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0o755);
        let made = all(&[hook(path)]).unwrap();
        let want =
            json!([{ "path": path, "args": [path, "a"], "env": [ENVIRONMENT], "timeout": 3 }]);
        assert_eq!(made["poststop"], want);
        assert!(all(&[]).unwrap().is_null());
        mode(0o775);
        assert_eq!(all(&[hook(path)]).unwrap_err().class(), Class::PermissionDenied);
        mode(0o644);
        assert_eq!(all(&[hook(path)]).unwrap_err().class(), Class::InvalidArgument);
        mode(0o755);
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(all(&[hook(path)]).unwrap_err().class(), Class::PermissionDenied);
        assert_eq!(all(&[hook("hook")]).unwrap_err().class(), Class::InvalidArgument);
        assert_eq!(all(&[hook("/no/such")]).unwrap_err().class(), Class::NotFound);
    }
}
