//! The plugin.

use std::rc::Rc;

use actix::{Actor, Addr, Context as Cell, Handler};
use capstan_sdk::contract::Verifier;
use capstan_sdk::contract::verifier::{Ask, Evidence, Verdict, VerifierAddr, Verify};
use capstan_sdk::pattern::{Otherwise, Pattern};
use capstan_sdk::{
    Context, Digest, Error, Exports, Info, Plugin, Reference, Result, blocking, export_plugin, rpc,
};

use crate::key::Key;
use crate::{Config, bundle, simple};

/// verifier.cosign.
#[derive(Debug)]
pub struct CosignVerifier {
    default: Otherwise,
    rules: Rc<[Rule]>,
}

/// A rule with its keys.
#[derive(Debug)]
struct Rule {
    images: Pattern,
    keys: Vec<Key>,
    required: usize,
    identity: Option<Pattern>,
}

export_plugin!(CosignVerifier);

impl Plugin for CosignVerifier {
    const INFO: Info = Info {
        id: "verifier.cosign",
        version: env!("CARGO_PKG_VERSION"),
        about: "lets only images that certain keys signed have certain names",
        requires: &[],
        rank: 0,
    };
    type Config = Config;

    async fn build(config: Config, _context: Context) -> Result<Self> {
        let default = config.default;
        let load = move || config.rules.iter().map(Rule::load).collect::<Result<Vec<_>>>();
        let rules = blocking::run("read public keys", load).await?;
        Ok(Self { default, rules: rules.into() })
    }

    fn export(addr: &Addr<Self>, context: &Context, exports: &mut Exports) {
        exports.contract::<Verifier>(VerifierAddr::from(addr));
        let link = context.link_self::<Verifier>();
        exports.global_service(move |_peer| rpc::verifier::serve(link.clone()));
    }
}

impl Actor for CosignVerifier {
    type Context = Cell<Self>;
}

impl CosignVerifier {
    fn rule(&self, name: &Reference) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.images.matches(name))
    }
}

impl Rule {
    fn load(rule: &crate::Rule) -> Result<Self> {
        let images = String::from(rule.images.clone());
        let mut keys: Vec<Key> = Vec::new();
        for entry in &rule.keys {
            for key in
                Key::load(entry).map_err(|error| error.at(format_args!("rule for {images}")))?
            {
                // The same key twice is one key: it does not sign for two.
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        if rule.required == 0 || rule.required > keys.len() {
            return Err(Error::invalid(format!(
                "rule for {images}: {} of its {} keys can never be asked for; set required to 1 or more, up to as many \
                 as there are different keys",
                rule.required,
                keys.len()
            )));
        }
        let (images, identity) = (rule.images.clone(), rule.identity.clone());
        Ok(Self { images, keys, required: rule.required, identity })
    }

    fn verdict(&self, name: &Reference, digest: &Digest, evidence: &[Evidence]) -> Verdict {
        let mut has_signed = vec![false; self.keys.len()];
        let mut has_any = false;
        // What a key did sign, but not for this: it tells most about what went wrong.
        let mut objections: Vec<String> = Vec::new();
        let mut look =
            |message: &[u8], signature: &[u8], objection: &dyn Fn() -> Option<String>| {
                has_any = true;
                for (key, has_signed) in self.keys.iter().zip(&mut has_signed) {
                    if !*has_signed && key.signed(message, signature) {
                        // Only what is signed is read.
                        match objection() {
                            None => *has_signed = true,
                            Some(objection) => objections.push(objection),
                        }
                    }
                }
            };
        for piece in evidence {
            if piece.media_type == simple::MEDIA_TYPE {
                if let Some(signature) = simple::signature(piece) {
                    look(&piece.payload, &signature, &|| {
                        simple::objection(&piece.payload, name, digest, self.identity.as_ref())
                    });
                }
            } else if piece.media_type == bundle::MEDIA_TYPE
                && let Some(signed) = bundle::read(&piece.payload)
            {
                for signature in &signed.signatures {
                    look(&signed.message, signature, &|| signed.objection(digest));
                }
            }
        }
        let count = has_signed.iter().filter(|has_signed| **has_signed).count();
        if count >= self.required {
            return Verdict::Accepted;
        }
        objections.sort();
        Verdict::Refused(match (objections.first(), count, has_any) {
            (Some(objection), 0, _) => format!("what a trusted key signed {objection}"),
            (_, 0, true) => format!("no trusted key signed {digest}, only others did"),
            (_, 0, false) => format!("nobody signed {digest}"),
            (_, count, _) => {
                format!("{count} trusted keys signed {digest}, and {} must have", self.required)
            }
        })
    }
}

impl Handler<Ask> for CosignVerifier {
    type Result = Result<bool>;
    fn handle(&mut self, ask: Ask, _: &mut Cell<Self>) -> Self::Result {
        Ok(Reference::parse(&ask.name).is_ok_and(|name| self.rule(&name).is_some()))
    }
}

impl Handler<Verify> for CosignVerifier {
    type Result = Result<Verdict>;
    fn handle(&mut self, question: Verify, _: &mut Cell<Self>) -> Self::Result {
        let name = Reference::parse(&question.name)?;
        Ok(match self.rule(&name) {
            Some(rule) => rule.verdict(&name, &question.target.digest, &question.evidence),
            None => self.default.verdict(&name),
        })
    }
}
