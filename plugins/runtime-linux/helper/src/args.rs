//! The command line: that part of runc's which a shim needs. By hand, because it is parsed once for
//! each container, and a parser that can do everything takes longer than the rest of the start.

use std::path::PathBuf;

pub(crate) const USAGE: &str = "\
usage: capstan-runtime --root DIR [--log FILE] [--log-format json] [--systemd-cgroup] COMMAND ID
  create --bundle DIR [--pid-file FILE] [--console-socket SOCKET] ID
  start ID
  exec --process FILE [--detach] [--pid-file FILE] [--console-socket SOCKET] ID
  kill ID [SIGNAL]
  delete [--force] ID
  state ID";

/// What to do with a container.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Create { bundle: PathBuf },
    Start,
    Exec { process: PathBuf },
    Kill { signal: String },
    Delete { is_forced: bool },
    State,
}

/// The whole command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) root: PathBuf,
    pub(crate) log: Option<PathBuf>,
    pub(crate) is_systemd_cgroup: bool,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) console_socket: Option<PathBuf>,
    pub(crate) id: String,
    pub(crate) command: Command,
}

impl Args {
    /// Flags may stand anywhere, as `--name value` or `--name=value`.
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut root, mut log, mut bundle, mut process) = (None, None, None, None);
        let (mut pid_file, mut console_socket) = (None, None);
        let (mut is_systemd_cgroup, mut is_forced) = (false, false);
        let mut words = Vec::new();
        let mut args = args;
        while let Some(arg) = args.next() {
            let (name, attached) = match arg.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (arg.as_str(), None),
            };
            let mut value = || {
                let value = attached.clone().or_else(|| args.next());
                value.map(PathBuf::from).ok_or_else(|| format!("{name} needs a value"))
            };
            match name {
                "--root" => root = Some(value()?),
                "--log" => log = Some(value()?),
                "--log-format" => drop(value()?),
                "--bundle" | "-b" => bundle = Some(value()?),
                "--process" | "-p" => process = Some(value()?),
                "--pid-file" => pid_file = Some(value()?),
                "--console-socket" => console_socket = Some(value()?),
                "--systemd-cgroup" => is_systemd_cgroup = true,
                "--force" | "-f" => is_forced = true,
                // An exec is always left running: the shim waits for it.
                "--detach" | "-d" => {}
                flag if flag.starts_with('-') && flag.len() > 1 => {
                    return Err(format!("there is no flag {flag}"));
                }
                word => words.push(word.to_owned()),
            }
        }
        let mut words = words.into_iter();
        let verb = words.next().ok_or("which command?")?;
        let id = words.next().ok_or("which container?")?;
        let command = match verb.as_str() {
            "create" => Command::Create { bundle: bundle.unwrap_or_else(|| ".".into()) },
            "start" => Command::Start,
            "exec" => Command::Exec { process: process.ok_or("exec needs --process FILE")? },
            "kill" => Command::Kill { signal: words.next().unwrap_or_else(|| "TERM".into()) },
            "delete" => Command::Delete { is_forced },
            "state" => Command::State,
            verb => return Err(format!("there is no command {verb}")),
        };
        if let Some(word) = words.next() {
            return Err(format!("what is {word:?}?"));
        }
        let root = root.ok_or("--root is needed")?;
        Ok(Self { root, log, is_systemd_cgroup, pid_file, console_socket, id, command })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, want: Option<&Command>) {
        let got = Args::parse(line.split_whitespace().map(str::to_owned));
        assert_eq!(got.as_ref().ok().map(|args| &args.command), want, "{line}: {got:?}");
    }

    #[test]
    fn the_shims_commands_are_understood() {
        let all = "--root /r --log log.json --log-format json";
        check(
            &format!("{all} create --bundle . --pid-file init.pid web"),
            Some(&Command::Create { bundle: ".".into() }),
        );
        check(&format!("{all} start web"), Some(&Command::Start));
        check(&format!("{all} delete --force web"), Some(&Command::Delete { is_forced: true }));
        check(
            &format!("{all} exec --detach --process=p.json --pid-file x web"),
            Some(&Command::Exec { process: "p.json".into() }),
        );
        check("--root /r kill web 9", Some(&Command::Kill { signal: "9".into() }));
        check("--root=/r state web", Some(&Command::State));
    }

    #[test]
    fn the_rest_is_refused() {
        for line in [
            "",
            "--root /r",
            "--root /r start",
            "start web",
            "--root /r exec web",
            "--root /r fly web",
            "--root /r --wings start web",
            "--root /r start web too",
            "--root",
        ] {
            check(line, None);
        }
    }
}
