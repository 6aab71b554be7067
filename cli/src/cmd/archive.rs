//! `capstan images import` and `export`.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use capstan_client::Error;
use capstan_client::schema::transfer_capnp::{Names, archive_upload, transfer};
use capstan_client::schema::{MAX_CHUNK_BYTES, write_texts};
use tempfile::{Builder, NamedTempFile};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::images::full_name;
use super::layout::{Packing, Unpacking, is_layout};
use crate::exit::Outcome;
use crate::print::{self, TransferProgress};
use crate::session::{Session, call};

/// Images from an archive or a directory: an OCI layout or what `docker save` writes, plain or compressed
///
/// By default all names in the archive are taken that are not the names of other images here.
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// The archive; - is stdin, a directory is an OCI layout
    #[arg(value_name = "FILE|DIR|-")]
    file: PathBuf,
    /// Take only this name; may be given several times. An archive with one image that has no name gives it this one
    #[arg(long = "name", value_name = "REF", conflicts_with_all = ["all", "unnamed"])]
    names: Vec<String>,
    /// Take all names, also those that are the names of other images here
    #[arg(long, conflicts_with = "unnamed")]
    all: bool,
    /// Take no name: images are known by their digest only
    #[arg(long)]
    unnamed: bool,
    /// Store content only
    #[arg(long)]
    no_unpack: bool,
    /// os/arch[/variant] to unpack [default: the host's]
    #[arg(long)]
    platform: Option<String>,
    /// The snapshotter to unpack for
    #[arg(long)]
    snapshotter: Option<String>,
}

/// Images into an archive or a directory: an OCI layout, in a tar that `docker load` reads too
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// The archive; - is stdout. A directory, or a name with / at its end, becomes an OCI layout, or gets the
    /// images added to the one that it is
    #[arg(value_name = "FILE|DIR|-")]
    file: PathBuf,
    #[arg(required = true, value_name = "REF")]
    names: Vec<String>,
    /// os/arch[/variant] [default: every platform whose content is here]
    #[arg(long)]
    platform: Option<String>,
}

impl Import {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: transfer::Client = session.open("transfer");
        let mut request = service.import_request();
        let progress = TransferProgress::new(session.is_json());
        request.get().set_progress(progress.client());
        let mut options = request.get().init_options();
        let names: Vec<String> = self.names.iter().map(|name| full_name(name)).collect();
        options.set_take(match (self.all, names.is_empty() && !self.unnamed) {
            (true, _) => Names::All,
            (false, true) => Names::Fresh,
            (false, false) => Names::Only,
        });
        let count = u32::try_from(names.len()).expect("a command line is short");
        write_texts(&names, options.reborrow().init_names(count));
        options.set_platform(self.platform.as_deref().unwrap_or_default());
        options.set_snapshotter(self.snapshotter.as_deref().unwrap_or_default());
        options.set_no_unpack(self.no_unpack);
        let response = call!(session, request);
        let upload = response.get()?.get_upload()?;
        if self.file.as_os_str() == "-" {
            send(session, &upload, tokio::io::stdin()).await?;
        } else if is_layout(&self.file) {
            let (packing, archive) = Packing::start(&self.file)?;
            send(session, &upload, archive).await?;
            packing.finish().await?;
        } else {
            let file = tokio::fs::File::open(&self.file)
                .await
                .map_err(|error| Error::io(format!("open {}", self.file.display()), error))?;
            send(session, &upload, file).await?;
        }
        let response = call!(session, upload.finish_request());
        progress.finish();
        let mut out = io::stdout();
        for image in response.get()?.get_images()? {
            if session.is_json() {
                print::json_line(image)?;
                continue;
            }
            let name = image.get_name()?.to_str()?;
            let name = if name.is_empty() { "-" } else { name };
            writeln!(out, "{name}  {}", image.get_target()?.get_digest()?.to_str()?)?;
        }
        Ok(())
    }
}

/// One piece is read while the one before is on its way.
async fn send(
    session: &Session,
    upload: &archive_upload::Client,
    mut from: impl AsyncRead + Unpin,
) -> Outcome {
    let mut buffer = vec![0; MAX_CHUNK_BYTES as usize];
    let mut before = None;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..]).await {
                Ok(0) => break,
                Ok(got) => filled += got,
                Err(error) => return Err(Error::io("read the archive", error).into()),
            }
        }
        let mut request = upload.write_request();
        request.get().set_bytes(&buffer[..filled]);
        let sent = (filled > 0).then(|| request.send().promise);
        if let Some(before) = std::mem::replace(&mut before, sent) {
            let response = session.client.call(before).await?;
            capstan_client::check!(response.get()?)?;
        }
        if filled == 0 {
            return Ok(());
        }
    }
}

impl Export {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: transfer::Client = session.open("transfer");
        let mut request = service.export_request();
        let names: Vec<String> = self.names.iter().map(|name| full_name(name)).collect();
        let count = u32::try_from(names.len()).expect("a command line is short");
        write_texts(&names, request.get().init_names(count));
        request.get().set_platform(self.platform.as_deref().unwrap_or_default());
        // An archive on stdout is alone there.
        let is_on_stdout = self.file.as_os_str() == "-";
        let progress = TransferProgress::new(session.is_json() && !is_on_stdout);
        request.get().set_progress(progress.client());
        let response = call!(session, request);
        let archive = response.get()?.get_archive()?;
        let (mut layout, mut pipe) = (None, None);
        if is_layout(&self.file) {
            let (unpacking, writer) = Unpacking::start(&self.file)?;
            (layout, pipe) = (Some(unpacking), Some(writer));
        }
        let to_file = layout.is_none() && !is_on_stdout;
        let fail = |error| Error::io(format!("write {}", self.file.display()), error);
        let mut draft = None;
        let mut out: Box<dyn Write> = match (pipe, to_file) {
            (Some(pipe), _) => Box::new(pipe),
            (None, true) => {
                let (file, made) = create(&self.file).map_err(fail)?;
                draft = made;
                Box::new(file)
            }
            (None, false) => Box::new(io::stdout()),
        };
        let work = async {
            let mut next = archive.read_request().send().promise;
            loop {
                let response = session.client.call(next).await?;
                let bytes = capstan_client::check!(response.get()?)?.get_bytes()?;
                if bytes.is_empty() {
                    return Ok(out.flush()?);
                }
                next = archive.read_request().send().promise;
                out.write_all(bytes)?;
            }
        };
        let mut outcome: Outcome = work.await;
        drop(out);
        if let Some(layout) = layout {
            outcome = layout.finish(outcome).await;
        } else if let (true, Some((draft, place))) = (outcome.is_ok(), draft) {
            draft.persist(place).map_err(|error| fail(error.error))?;
        }
        if outcome.is_ok() {
            progress.finish();
        }
        outcome
    }
}

/// Begins a file that gets its name, the second of what is answered, when it is whole: half an archive is none, and one
/// that was there before stays until then. What is no file, such as a pipe, is written to as it is.
fn create(path: &Path) -> io::Result<(File, Option<(NamedTempFile, PathBuf)>)> {
    let place = match fs::metadata(path) {
        Ok(found) if !found.is_file() => return Ok((File::create(path)?, None)),
        // Where a link leads to.
        Ok(_) => fs::canonicalize(path)?,
        Err(_) => path.to_owned(),
    };
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let dir = match place.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let draft = Builder::new()
        .prefix(&format!(".{name}."))
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir)?;
    Ok((draft.as_file().try_clone()?, Some((draft, place))))
}
