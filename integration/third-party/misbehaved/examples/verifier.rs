//! verifier.misbehaved: a verifier that does what it must not, when it is told to.
//!
//! As long as it is told nothing it accepts every image.

use std::path::PathBuf;
use std::time::Duration;

use capstan_sdk::actix::clock::sleep;
use capstan_sdk::actix::{Actor, Addr, Context as Cell, Handler, ResponseFuture};
use capstan_sdk::contract::Verifier;
use capstan_sdk::contract::verifier::{Ask, Verdict, VerifierAddr, Verify};
use capstan_sdk::{Context, Error, Exports, Info, Plugin, Result, export_plugin, rpc};
use serde::{Deserialize, Serialize};

/// What it does when it is asked about an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    /// It accepts it.
    #[default]
    Behave,
    /// It says that it is out of order.
    Fail,
    /// It panics.
    PanicInCall,
    /// It panics as soon as it is asked whether it wants evidence.
    PanicInAsk,
    /// It ends its process.
    Abort,
    /// It keeps its thread for ever.
    Hang,
    /// It is well and answers everything but this.
    Forget,
    /// It accepts it, two seconds later.
    Late,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// Default: `behave`.
    what: What,
    /// It cannot be made as long as there is such a file. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    broken_by: Option<PathBuf>,
}

#[derive(Debug)]
struct Misbehaved {
    what: What,
}

export_plugin!(Misbehaved);

impl Plugin for Misbehaved {
    const INFO: Info = Info {
        id: "verifier.misbehaved",
        version: env!("CARGO_PKG_VERSION"),
        about: "a verifier that does what it must not, when it is told to",
        requires: &[],
        rank: 0,
    };
    type Config = Config;

    async fn build(config: Config, _context: Context) -> Result<Self> {
        if config.broken_by.is_some_and(|file| file.exists()) {
            return Err(Error::precondition("it is broken, as it was told to"));
        }
        Ok(Self { what: config.what })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Verifier>(VerifierAddr::from(addr));
        let link = context.link_self::<Verifier>();
        exports.global_service(move |_peer| rpc::verifier::serve(link.clone()));
    }
}

impl Actor for Misbehaved {
    type Context = Cell<Self>;
}

impl Handler<Ask> for Misbehaved {
    type Result = Result<bool>;
    fn handle(&mut self, _: Ask, _: &mut Cell<Self>) -> Self::Result {
        match self.what {
            What::PanicInAsk => panic!("it panicked in a call, as it was told to"),
            _ => Ok(false),
        }
    }
}

impl Handler<Verify> for Misbehaved {
    type Result = ResponseFuture<Result<Verdict>>;
    fn handle(&mut self, _: Verify, _: &mut Cell<Self>) -> Self::Result {
        match self.what {
            What::Behave | What::PanicInAsk => {}
            What::Fail => {
                let error = Error::internal("it is out of order, as it was told to");
                return Box::pin(async { Err(error) });
            }
            What::PanicInCall => panic!("it panicked in a call, as it was told to"),
            What::Abort => std::process::abort(),
            What::Hang => loop {
                std::thread::sleep(Duration::from_secs(60));
            },
            What::Forget => return Box::pin(std::future::pending()),
            What::Late => {
                return Box::pin(async {
                    sleep(Duration::from_secs(2)).await;
                    Ok(Verdict::Accepted)
                });
            }
        }
        Box::pin(async { Ok(Verdict::Accepted) })
    }
}
