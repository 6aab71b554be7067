//! `capstan info`.

use std::io::Write as _;

use capstan_client::schema::introspection_capnp::introspection;

use crate::exit::Outcome;
use crate::print;
use crate::session::{Session, call};

pub(crate) async fn run(session: &Session) -> Outcome {
    let service: introspection::Client = session.open_global("introspection");
    let response = call!(session, service.info_request());
    let info = response.get()?.get_info()?;
    if session.is_json() {
        return print::json(info);
    }
    let mut out = std::io::stdout();
    let mut line = |name: &str, value: String| writeln!(out, "{:<14} {value}", format!("{name}:"));
    let revision = info.get_revision()?.to_str()?;
    let revision = if revision.is_empty() { String::new() } else { format!(" ({revision})") };
    line("Version", format!("{}{revision}", info.get_version()?.to_str()?))?;
    line("Pid", info.get_pid().to_string())?;
    line("Started", print::time(info.get_started_at_unix_ns()))?;
    line("Root", info.get_root()?.to_str()?.into())?;
    line("State", info.get_state()?.to_str()?.into())?;
    line("Address", info.get_address()?.to_str()?.into())?;
    line("Kernel", info.get_kernel()?.to_str()?.into())?;
    line("Architecture", info.get_architecture()?.to_str()?.into())?;
    line("Cgroups", info.get_cgroup()?.to_str()?.into())?;
    line("CPUs", info.get_cpus().to_string())?;
    line("Memory", print::size(info.get_memory_bytes()))?;
    line("Plugins", format!("{} of {} run", info.get_plugins_running(), info.get_plugins_total()))?;
    Ok(())
}
