//! The plugin.

use actix::{Actor, Addr, Context as Cell, Handler, ResponseFuture};
use capstan_sdk::contract::Verifier;
use capstan_sdk::contract::verifier::{Ask, Verdict, VerifierAddr, Verify};
use capstan_sdk::{
    Context, Error, Exports, Info, Plugin, Reference, Result, blocking, export_plugin, rpc,
};

use crate::{Config, list};

/// verifier.digest.
#[derive(Debug)]
pub struct DigestVerifier {
    config: Config,
}

export_plugin!(DigestVerifier);

impl Plugin for DigestVerifier {
    const INFO: Info = Info {
        id: "verifier.digest",
        version: env!("CARGO_PKG_VERSION"),
        about: "lets only images with listed digests have certain names",
        requires: &[],
        rank: 0,
    };
    type Config = Config;

    async fn build(config: Config, _context: Context) -> Result<Self> {
        for rule in &config.rules {
            if let Some(file) = rule.file.as_ref().filter(|file| !file.is_absolute()) {
                let file = file.display();
                return Err(Error::invalid(format!("rule file {file}: give an absolute path")));
            }
        }
        Ok(Self { config })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Verifier>(VerifierAddr::from(addr));
        let link = context.link_self::<Verifier>();
        exports.global_service(move |_peer| rpc::verifier::serve(link.clone()));
    }
}

impl Actor for DigestVerifier {
    type Context = Cell<Self>;
}

impl Handler<Ask> for DigestVerifier {
    type Result = Result<bool>;
    fn handle(&mut self, _: Ask, _: &mut Cell<Self>) -> Self::Result {
        Ok(false)
    }
}

impl Handler<Verify> for DigestVerifier {
    type Result = ResponseFuture<Result<Verdict>>;
    fn handle(&mut self, question: Verify, _: &mut Cell<Self>) -> Self::Result {
        let name = Reference::parse(&question.name);
        let rule = match &name {
            Ok(name) => self.config.rules.iter().find(|rule| rule.images.matches(name)).cloned(),
            Err(_) => None,
        };
        let default = self.config.default;
        Box::pin(async move {
            let name = name?;
            let digest = question.target.digest;
            let Some(rule) = rule else {
                return Ok(default.verdict(&name));
            };
            let mut is_listed = rule.digests.iter().any(|listed| listed.0 == digest);
            if let (false, Some(file)) = (is_listed, rule.file) {
                let wanted = digest.clone();
                is_listed =
                    blocking::run("read a list of digests", move || list::has(&file, &wanted))
                        .await?;
            }
            Ok(match is_listed {
                true => Verdict::Accepted,
                false => {
                    let images = String::from(rule.images);
                    Verdict::Refused(format!("{digest} is not in the list for {images}"))
                }
            })
        })
    }
}
