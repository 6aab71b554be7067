//! `capstan run`.

use std::io::{Read as _, Write as _};

use capstan_client::schema::image_capnp::images;
use capstan_client::schema::task_capnp::tasks;
use capstan_client::{Class, Error};
use clap::{Args, ValueEnum};

use crate::cmd::containers::image_and_command;
use crate::cmd::foreground::{DetachFlag, Foreground, Parted, Target, Wish};
use crate::cmd::pull::Pull;
use crate::cmd::registry::Reach;
use crate::cmd::spec::SpecFlags;
use crate::cmd::streams::{LogFlags, Streams};
use crate::exit::{Failure, Outcome};
use crate::session::{Session, call};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PullPolicy {
    /// Pull if the image is not there
    Missing,
    /// Pull first, whether it is there or not
    Always,
    /// Do not pull
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Remove the container when it ends
    #[arg(long)]
    rm: bool,
    /// Print the id and leave it running
    #[arg(short, long)]
    detach: bool,
    /// Pass stdin on
    #[arg(short, long)]
    interactive: bool,
    /// No streams at all
    #[arg(long)]
    null_io: bool,
    /// The container's id [default: a random one]
    #[arg(long, value_name = "ID")]
    name: Option<String>,
    /// When to pull the image
    #[arg(long, value_enum, default_value_t = PullPolicy::Missing)]
    pull: PullPolicy,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    log: LogFlags,
    #[command(flatten)]
    keys: DetachFlag,
    #[command(flatten)]
    spec: SpecFlags,
    /// The image; with --rootfs the first word of the command
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// `c` and 12 random hexadecimal digits.
fn random_id() -> Outcome<String> {
    let mut bytes = [0; 6];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Error::io("read /dev/urandom", error))?;
    Ok(bytes.iter().fold("c".to_owned(), |id, byte| format!("{id}{byte:02x}")))
}

/// Says how to get back to a container that goes on.
pub(crate) fn parted(id: &str, parted: Parted) {
    if parted == Parted::Detached {
        eprintln!("\r\ndetached; {id} goes on, attach again with: capstan tasks attach {id}");
    }
}

impl Run {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        if self.spec.is_restarted() && (self.rm || !self.detach) {
            let why = "--restart: nobody would see the streams of what is started again, nor could it be \
                       removed; use it with -d and without --rm";
            return Err(Error::invalid(why).into());
        }
        let streams = Streams::choose(self.detach, self.null_io, &self.log)?;
        let id = match &self.name {
            Some(name) => name.clone(),
            None => random_id()?,
        };
        let (image, command) =
            image_and_command(&self.spec, self.image.clone(), self.command.clone())?;
        let image = match image.as_str() {
            "" => String::new(),
            image => self.find_image(session, image).await?,
        };
        let service: tasks::Client = session.open("tasks");
        let wish = Wish { is_interactive: self.interactive, has_terminal: self.spec.tty };
        let ask = async |image: &str| -> Outcome<_> {
            let mut request = service.run_request();
            request.get().set_id(&id);
            let mut spec = request.get().init_spec();
            self.spec.write(image, &command, spec.reborrow())?;
            spec.set_ephemeral(self.rm);
            streams.write(self.interactive, request.get().init_stdio());
            Ok(call!(session, request))
        };
        let response = match ask(&image).await {
            Err(Failure::Error(error)) if self.wants_pull(session, &error, &image).await? => {
                self.pull(session, &image).await?;
                ask(&image).await?
            }
            answer => answer?,
        };
        let reply = response.get()?;
        let info = reply.get_info()?;
        let attach = info.get_attach()?.to_string()?;
        let target = Target::Task(reply.get_task()?);
        if self.detach {
            target.start(session).await?;
            return Ok(writeln!(std::io::stdout(), "{id}")?);
        }
        let detach_keys = self.keys.detach_keys.clone();
        let process = Foreground { target, attach: &attach, wish, detach_keys, is_new: true };
        parted(&id, process.run(session).await?);
        Ok(())
    }

    /// The name under which the image is stored; pulls first if that was asked for.
    async fn find_image(&self, session: &Session, image: &str) -> Outcome<String> {
        match self.pull {
            PullPolicy::Always => self.pull(session, image).await,
            PullPolicy::Missing | PullPolicy::Never => Ok(image.to_owned()),
        }
    }

    async fn pull(&self, session: &Session, image: &str) -> Outcome<String> {
        let snapshotter = self.spec.snapshotter.clone();
        Pull::for_run(image, self.reach.clone(), snapshotter).pull(session, true).await
    }

    /// Whether a failed try was for want of the image, and may pull.
    async fn wants_pull(&self, session: &Session, error: &Error, image: &str) -> Outcome<bool> {
        if error.class() != Class::NotFound || self.pull != PullPolicy::Missing || image.is_empty()
        {
            return Ok(false);
        }
        let service: images::Client = session.open("images");
        let mut request = service.get_request();
        request.get().set_name(image);
        let response = session.client.call(request.send().promise).await?;
        match capstan_client::check!(response.get()?) {
            Err(error) if error.class() == Class::NotFound => Ok(true),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(false),
        }
    }
}
