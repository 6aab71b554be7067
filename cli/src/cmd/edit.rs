//! `capstan content edit`: a blob through the user's editor.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use capstan_client::schema::MAX_CHUNK_BYTES;
use capstan_client::schema::content_capnp::content;
use capstan_client::{Class, Error};
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::content::get_into;
use crate::exit::Outcome;
use crate::print;
use crate::session::{Session, call};

/// Change a copy of a blob with `$VISUAL` or `$EDITOR`, and print the digest of what was stored
///
/// The blob itself stays as it is. If nothing was changed, its own digest is printed.
#[derive(Debug, clap::Args)]
pub(crate) struct Edit {
    digest: String,
}

impl Edit {
    pub(crate) async fn run(self, session: &Session, service: &content::Client) -> Outcome {
        let editor = editor()?;
        // An editor may put its own files beside the copy: they go with the directory.
        let dir = tempfile::Builder::new()
            .prefix("capstan-edit-")
            .tempdir()
            .map_err(|error| Error::io("make a directory for the copy", error))?;
        let path = dir.path().join("blob");
        let fail = |error| Error::io(format!("write {}", path.display()), error);
        let mut file = File::create_new(&path).map_err(fail)?;
        get_into(session, service, &self.digest, &mut file).await?;
        drop(file);
        // Ctrl-C belongs to the editor while it runs, and ends this command in good order afterwards.
        let _editors = signal(SignalKind::interrupt())?;
        edit(&editor, &path).await?;
        // Its end may be seen before a signal that came before it: the runtime hears of them apart, and of all that
        // have come by now before it goes on from here.
        tokio::task::yield_now().await;
        let mut interrupts = signal(SignalKind::interrupt())?;
        let stored = tokio::select! {
            digest = store(session, service, &self.digest, &path) => digest?,
            _ = interrupts.recv() => {
                let mut request = service.abort_request();
                request.get().set_ref(reference(&self.digest));
                // What was not begun cannot be dropped, and that is fine.
                let _ = session.client.call(request.send().promise).await;
                let text = format!("edit {}: interrupted; nothing was stored", self.digest);
                return Err(Error::new(Class::Aborted, text).into());
            }
        };
        if stored == self.digest {
            eprintln!("capstan: nothing was changed");
        }
        if session.is_json() {
            return print::json_value(&json!({ "digest": stored }));
        }
        Ok(writeln!(std::io::stdout(), "{stored}")?)
    }
}

/// `$VISUAL`, or else `$EDITOR`: a line for the shell.
fn editor() -> Outcome<String> {
    let set = |name| std::env::var(name).ok().filter(|line| !line.trim().is_empty());
    set("VISUAL").or_else(|| set("EDITOR")).ok_or_else(|| {
        Error::precondition("no editor is known: set VISUAL or EDITOR, such as EDITOR=vi").into()
    })
}

async fn edit(editor: &str, path: &Path) -> Outcome {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(path);
    let status =
        command.status().await.map_err(|error| Error::io(format!("run {editor:?}"), error))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::precondition(format!(
            "the editor {editor:?} failed with {status}; nothing was stored"
        ))
        .into()),
    }
}

/// The name of the ingest.
fn reference(digest: &str) -> String {
    format!("edit-{digest}")
}

/// Stores the file as a blob, hashed as the one that it was made from.
async fn store(
    session: &Session,
    service: &content::Client,
    digest: &str,
    path: &Path,
) -> Outcome<String> {
    // The editor may have put a new file in the place of ours.
    let mut file = tokio::fs::File::open(path)
        .await
        .map_err(|error| Error::io("open what the editor left", error))?;
    let open = async || {
        let mut request = service.ingest_request();
        request.get().set_ref(reference(digest));
        request.get().set_algorithm(digest.split(':').next().unwrap_or_default());
        let response = call!(session, request);
        let offset = response.get()?.get_info()?.get_offset();
        Outcome::Ok((response.get()?.get_ingest()?, offset))
    };
    let (mut ingest, left) = open().await?;
    if left > 0 {
        // Of an edit that did not come to its end.
        call!(session, ingest.abort_request());
        ingest = open().await?.0;
    }
    let work = async {
        let mut buffer = vec![0; MAX_CHUNK_BYTES as usize];
        let mut offset = 0;
        loop {
            let got = file
                .read(&mut buffer)
                .await
                .map_err(|error| Error::io("read what the editor left", error))?;
            if got == 0 {
                break;
            }
            let mut request = ingest.write_request();
            request.get().set_offset(offset);
            request.get().set_bytes(&buffer[..got]);
            offset = call!(session, request).get()?.get_offset();
        }
        let response = call!(session, ingest.commit_request());
        Outcome::Ok(response.get()?.get_digest()?.to_string()?)
    };
    let outcome = work.await;
    if outcome.is_err() {
        let _ = session.client.call(ingest.abort_request().send().promise).await;
    }
    outcome
}
