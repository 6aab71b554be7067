//! `capstan images mount` and `umount`: a look into an image without a container. The mount is the client's; the
//! daemon keeps the view behind it until `umount`.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use capstan_client::Error;
use capstan_client::schema::snapshot_capnp::snapshotter;
use capstan_client::schema::transfer_capnp::transfer;
use capstan_client::schema::{Labels, Mount, write_labels};

use super::images::full_name;
use crate::exit::Outcome;
use crate::session::{Session, call};

/// Says at which directory a view is mounted.
const LABEL: &str = "capstan/mounted-at";

/// Mount an image read-only at a directory (root only)
#[derive(Debug, clap::Args)]
pub(crate) struct MountImage {
    #[arg(value_name = "REF")]
    name: String,
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// os/arch[/variant] [default: the host's]
    #[arg(long)]
    platform: Option<String>,
    /// Which snapshotter [default: the preferred one]
    #[arg(long)]
    snapshotter: Option<String>,
}

/// End what `images mount` began
#[derive(Debug, clap::Args)]
pub(crate) struct UnmountImage {
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Which snapshotter [default: the preferred one]
    #[arg(long)]
    snapshotter: Option<String>,
}

fn service(session: &Session, name: Option<&str>) -> snapshotter::Client {
    match name {
        Some(name) => session.open(&format!("snapshotter.{name}")),
        None => session.open("snapshotter"),
    }
}

/// The directory as everybody names it, and the key of its view.
fn place(dir: &Path) -> Outcome<(String, String)> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(
            capstan_client::Class::PermissionDenied,
            "mounting takes root; or look from inside: capstan run --rm IMAGE sh",
        )
        .into());
    }
    let fail = |error| Error::io(format!("directory {}", dir.display()), error);
    let dir = dir.canonicalize().map_err(fail)?;
    let dir = dir.to_str().ok_or_else(|| Error::invalid("the directory's name is not UTF-8"))?;
    Ok((dir.to_owned(), format!("mount-{dir}")))
}

fn run(program: &str, args: &[&OsStr]) -> Outcome {
    let fail = |error| Error::io(format!("run {program}"), error);
    let output = Command::new(program).args(args).output().map_err(fail)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or_default().to_owned();
    Err(Error::precondition(format!("{program}: {first}")).into())
}

fn mount(mount: &Mount, dir: &str) -> Outcome {
    let options = mount.options.join(",");
    let mut args: Vec<&OsStr> = Vec::new();
    // A bind is an option for mount(8), not a type.
    if mount.kind != "bind" {
        args.extend(["-t".as_ref(), OsStr::new(&mount.kind)]);
    }
    args.extend([OsStr::new("-o"), options.as_ref(), mount.source.as_ref(), dir.as_ref()]);
    run("mount", &args)
}

impl MountImage {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let (dir, key) = place(&self.dir)?;
        let transfer: transfer::Client = session.open("transfer");
        let mut request = transfer.unpack_request();
        request.get().set_image(full_name(&self.name));
        request.get().set_platform(self.platform.as_deref().unwrap_or_default());
        request.get().set_snapshotter(self.snapshotter.as_deref().unwrap_or_default());
        let response = call!(session, request);
        let chain_id = response.get()?.get_chain_id()?.to_str()?;

        let snapshots = service(session, self.snapshotter.as_deref());
        let mut request = snapshots.view_request();
        request.get().set_key(&key);
        request.get().set_parent(chain_id);
        let labels = Labels::from([(LABEL.to_owned(), dir.clone())]);
        write_labels(&labels, request.get().init_labels(1));
        let response = call!(session, request);
        let mut outcome = Ok(());
        for told in response.get()?.get_mounts()? {
            outcome = outcome.and_then(|()| mount(&Mount::read(told)?, &dir));
        }
        if let Err(failure) = outcome {
            let mut request = snapshots.remove_request();
            request.get().set_key(&key);
            call!(session, request);
            return Err(failure);
        }
        Ok(writeln!(std::io::stdout(), "{dir}")?)
    }
}

impl UnmountImage {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let (dir, key) = place(&self.dir)?;
        let snapshots = service(session, self.snapshotter.as_deref());
        let mut request = snapshots.stat_request();
        request.get().set_key(&key);
        let response = session.client.call(request.send().promise).await?;
        capstan_client::check!(response.get()?).map_err(|error| {
            error.at(format_args!("{dir} has no image that `images mount` put there"))
        })?;
        // After a reboot there is a view and no mount.
        if rustix::fs::statx(
            rustix::fs::CWD,
            &dir,
            rustix::fs::AtFlags::empty(),
            rustix::fs::StatxFlags::empty(),
        )
        .is_ok_and(|about| about.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT))
        {
            run("umount", &[OsStr::new(&dir)])?;
        }
        let mut request = snapshots.remove_request();
        request.get().set_key(&key);
        call!(session, request);
        Ok(writeln!(std::io::stdout(), "{dir}")?)
    }
}
