//! `[plugins."containers.local"]`.

use serde::{Deserialize, Serialize};

use crate::hooks::Hook;

/// The section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Runtime of containers that name none: `embedded`, `runc`, `crun`, ... Default: `embedded`.
    pub runtime: String,
    /// Cgroup under which containers are, as `<parent>/<namespace>/<id>`. Default: empty, which means
    /// `/capstan`, or `/capstan-<8 hex digits>` for a daemon with another state directory than the
    /// usual one, so that two daemons never share a cgroup.
    pub cgroup_parent: String,
    /// Processes and threads in a container whose user named no limit; 0 = no limit. Default: 2048
    /// (podman's; far above what an honest container has, far below what a host bears).
    pub pids_limit: u64,
    /// Open files of a container's processes. Default: 1024.
    pub open_files: u64,
    /// Programs that runtimes run at steps of every container's life. Default: none.
    pub hooks: Vec<Hook>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            runtime: "embedded".into(),
            cgroup_parent: String::new(),
            pids_limit: 2048,
            open_files: 1024,
            hooks: Vec::new(),
        }
    }
}
