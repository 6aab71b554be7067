//! `capstan health`.

use std::io::Write as _;

use capstan_client::Error;
use capstan_client::schema::health_capnp::health;

use crate::exit::Outcome;
use crate::print;
use crate::session::{Session, call};

#[derive(Debug, clap::Args)]
pub(crate) struct Health {
    /// Ask about one plugin instead of the whole daemon
    #[arg(value_name = "PLUGIN")]
    plugin: Option<String>,
}

impl Health {
    pub(crate) async fn run(self, session: &Session) -> Outcome {
        let service: health::Client = session.open_global("health");
        let mut request = service.check_request();
        request.get().set_plugin(self.plugin.as_deref().unwrap_or_default());
        let response = call!(session, request);
        let reply = response.get()?;
        let detail = reply.get_detail()?.to_str()?;
        if session.is_json() {
            print::json(reply)?;
        } else if reply.get_serving() {
            writeln!(std::io::stdout(), "serving")?;
        }
        if reply.get_serving() {
            return Ok(());
        }
        Err(Error::unavailable(format!("not all is well: {detail}")).into())
    }
}
