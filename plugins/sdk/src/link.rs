//! Links: how a plugin reaches another one by contract.

use std::any::{Any, type_name};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::{MailboxError, Recipient};
use capstan_schema::{Error, Result};
use tokio::sync::watch;

use crate::answers::Answers;
use crate::latency::Latency;

/// How long a call waits for a plugin that is between two instances. A restart takes milliseconds; what
/// takes longer than this is out of order, and its callers should hear that.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A message of a contract, with the type of its answer.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message of any contract",
    label = "no message",
    note = "messages are made by `contract!`; those of capstan are in `capstan_sdk::contract`"
)]
pub trait Call: actix::Message<Result = Result<Self::Reply>> + Send + Sized + 'static {
    /// What comes back when it works.
    type Reply: Send + 'static;

    /// Whether it may take as long as it likes, such as a wait for the end of a process: then an orderly end of
    /// the plugin does not wait for it.
    const IS_LASTING: bool = false;

    /// The same message once more, if it does no harm to carry it out twice.
    fn again(&self) -> Option<Self> {
        None
    }
}

/// A contract: the messages that every plugin of one kind understands. Made by `contract!`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no contract",
    label = "no contract",
    note = "contracts are made by `contract!`; those of capstan are in `capstan_sdk::contract`. The address of a \
            contract, `..Addr`, is not the contract"
)]
pub trait Contract: 'static {
    /// The kind: the part of a plugin id before the first dot.
    const KIND: &'static str;
    /// The mailboxes of one provider, one per message type.
    type Addr: Clone + Send + Sync + 'static;
}

/// Says that a contract has this message.
#[diagnostic::on_unimplemented(
    message = "the contract `{Self}` has no message `{M}`",
    label = "sent to a plugin that does not understand it",
    note = "a `Link<C>` carries the messages of the contract `C`: get a link to the plugin whose contract has this one, \
            or send a message of this contract"
)]
pub trait Carries<M: Call>: Contract {
    /// The mailbox for it.
    fn recipient(addr: &Self::Addr) -> &Recipient<M>;
}

/// Says that an actor understands a message: it has an `actix::Handler` for it, and that is all.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle the message `{M}` of the contract that it offers",
    label = "a handler is missing",
    note = "write `impl actix::Handler<{M}> for {Self}`: a plugin handles all messages of its contract"
)]
pub trait Handles<M: actix::Message<Result: Send> + Send + 'static>: actix::Handler<M> {}

#[diagnostic::do_not_recommend]
impl<A: actix::Handler<M>, M: actix::Message<Result: Send> + Send + 'static> Handles<M> for A {}

/// Counters of one plugin, over all of its instances.
#[derive(Debug, Default)]
pub struct Stats {
    /// Typed messages answered.
    pub calls: AtomicU64,
    /// Typed messages lost in a panic or in a dead instance.
    pub failures: AtomicU64,
    /// Typed messages that it has and did not answer yet.
    pub waiting: AtomicU64,
    /// Of them, those that an orderly end has to wait for.
    pub brief: AtomicU64,
    /// How long answers took.
    pub latency: Latency,
    /// How often each message was answered, and how.
    pub answers: Arc<Answers>,
}

/// Counts one call for as long as it is under way.
struct UnderWay {
    stats: Arc<Stats>,
    is_lasting: bool,
}

impl UnderWay {
    fn new(stats: &Arc<Stats>, is_lasting: bool) -> Self {
        stats.waiting.fetch_add(1, Ordering::Relaxed);
        if !is_lasting {
            stats.brief.fetch_add(1, Ordering::Relaxed);
        }
        Self { stats: Arc::clone(stats), is_lasting }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.stats.waiting.fetch_sub(1, Ordering::Relaxed);
        if !self.is_lasting {
            self.stats.brief.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A live instance of a plugin.
#[derive(Clone)]
pub struct Provider {
    /// `kind.name`.
    pub id: Arc<str>,
    /// Which instance.
    pub generation: u64,
    /// Counters.
    pub stats: Arc<Stats>,
    /// The contract's `Addr`.
    pub addr: Arc<dyn Any + Send + Sync>,
}

impl Provider {
    fn does_not_speak(&self, kind: &str) -> Error {
        Error::internal(format!("{} does not speak the contract {kind}", self.id))
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.id, self.generation)
    }
}

/// Why there is no live instance.
#[derive(Clone, Debug)]
pub struct Absent {
    /// What a caller is told who does not wait.
    pub error: Error,
    /// Whether one follows soon.
    pub is_coming: bool,
}

impl From<Error> for Absent {
    fn from(error: Error) -> Self {
        Self { error, is_coming: false }
    }
}

/// The registry, as links use it. The kernel implements it.
pub trait Lookup: Send + Sync {
    /// The live instance behind `target`: a plugin id, or a kind, which means the preferred plugin
    /// of that kind.
    ///
    /// # Errors
    /// `NotFound`: nothing has this name. `Unavailable`: it is not running, with the reason.
    fn provider(&self, target: &str) -> Result<Provider, Absent>;

    /// Changes whenever a plugin comes or goes.
    fn changes(&self) -> watch::Receiver<u64>;

    /// The id that `target` means, running or not.
    ///
    /// # Errors
    /// `NotFound`.
    fn resolve(&self, target: &str) -> Result<Arc<str>>;
}

/// A way to the plugin behind a contract. Cheap to clone; never stale, because each call looks
/// the live instance up.
pub struct Link<C> {
    lookup: Arc<dyn Lookup>,
    target: Arc<str>,
    contract: PhantomData<fn() -> C>,
}

impl<C> Clone for Link<C> {
    fn clone(&self) -> Self {
        Self {
            lookup: Arc::clone(&self.lookup),
            target: Arc::clone(&self.target),
            contract: PhantomData,
        }
    }
}

impl<C> fmt::Debug for Link<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.target)
    }
}

impl<C: Contract> Link<C> {
    /// A link to a plugin id or a kind. The context makes these; tests may too.
    pub fn new(lookup: Arc<dyn Lookup>, target: Arc<str>) -> Self {
        Self { lookup, target, contract: PhantomData }
    }

    /// The id of the plugin behind the link, running or not.
    ///
    /// # Errors
    /// `NotFound`: no plugin of the kind is registered.
    pub fn id(&self) -> Result<Arc<str>> {
        self.lookup.resolve(&self.target)
    }

    /// Sends one message and waits for the answer.
    ///
    /// If the plugin is between two instances the call waits for the next one, for [`PATIENCE`] at most. If it ends
    /// with the call in its hands, a call that may be repeated ([`Call::again`]) is sent to the next one, once.
    ///
    /// # Errors
    /// What the plugin answers. `Unavailable`: it is down, or it ended with this call in its hands;
    /// whether the call took effect is then not known.
    pub async fn send<M: Call>(&self, message: M) -> Result<M::Reply>
    where
        C: Carries<M>,
    {
        let again = message.again();
        let provider = live(&*self.lookup, &self.target, 0).await?;
        let answer = match (ask::<C, M>(&provider, message).await, again) {
            (Err(error), Some(again)) if error.is_broken_off() => {
                let next = live(&*self.lookup, &self.target, provider.generation).await?;
                ask::<C, M>(&next, again).await
            }
            (answer, _) => answer,
        };
        // To the caller's own callers it is one error among others.
        answer.map_err(Error::settled)
    }
}

/// The live instance behind `target`, of a later generation than `after`. Not of [`Link`], which is many types.
async fn live(lookup: &dyn Lookup, target: &str, after: u64) -> Result<Provider> {
    let find = || match lookup.provider(target) {
        Ok(provider) if provider.generation > after => Ok(provider),
        // It has ended, and the supervisor will hear of it.
        Ok(provider) => Err(Absent {
            error: Error::unavailable(format!("{} has just ended; try again", provider.id)),
            is_coming: true,
        }),
        Err(absent) => Err(absent),
    };
    match find() {
        Ok(provider) => return Ok(provider),
        Err(absent) if !absent.is_coming => return Err(absent.error),
        Err(_) => {}
    }
    let mut changes = lookup.changes();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let absent = match find() {
            Ok(provider) => return Ok(provider),
            Err(absent) => absent,
        };
        if !absent.is_coming {
            return Err(absent.error);
        }
        match tokio::time::timeout_at(deadline, changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(absent.error),
        }
    }
}

async fn ask<C: Carries<M>, M: Call>(provider: &Provider, message: M) -> Result<M::Reply> {
    let addr = provider.addr.downcast_ref::<C::Addr>();
    let addr = addr.ok_or_else(|| provider.does_not_speak(C::KIND))?;
    let asked = Asked::new(provider, type_name::<M>(), M::IS_LASTING);
    match C::recipient(addr).send(message).await {
        Ok(answer) => {
            asked.note(answer.as_ref().err());
            answer
        }
        Err(MailboxError::Closed | MailboxError::Timeout) => Err(asked.broken_off()),
    }
}

/// One call under way. What is the same for all messages is here, and not made anew for each of them: that
/// would be a tenth of a megabyte of program.
struct Asked<'a> {
    provider: &'a Provider,
    under_way: UnderWay,
    message: &'static str,
    is_lasting: bool,
    begun: Instant,
}

impl<'a> Asked<'a> {
    fn new(provider: &'a Provider, message: &'static str, is_lasting: bool) -> Self {
        let under_way = UnderWay::new(&provider.stats, is_lasting);
        Self { provider, under_way, message, is_lasting, begun: Instant::now() }
    }

    /// Nobody is there to answer any more.
    fn broken_off(&self) -> Error {
        let name = self.message.rsplit("::").next().unwrap_or_default();
        let error = Error::broken_off(format!(
            "{} broke off while it handled {name}; try again, the daemon's log has the cause",
            self.provider.id
        ));
        self.note(Some(&error));
        error
    }

    /// Counts the answer.
    fn note(&self, error: Option<&Error>) {
        let stats = &self.under_way.stats;
        stats.answers.note(self.message, error);
        if error.is_some_and(Error::is_broken_off) {
            stats.failures.fetch_add(1, Ordering::Relaxed);
            return;
        }
        stats.calls.fetch_add(1, Ordering::Relaxed);
        if !self.is_lasting {
            stats.latency.note(self.begun.elapsed());
        }
    }
}

/// What a mark behind a message of a contract means.
#[doc(hidden)]
#[macro_export]
macro_rules! call_mark {
    (again) => {
        fn again(&self) -> Option<Self> {
            Some(self.clone())
        }
    };
    (lasting) => {
        const IS_LASTING: bool = true;
    };
}

/// Declares a contract: a marker type, its address type, and which messages it carries.
///
/// `[again]` behind a message says that it may be carried out twice, as reading may: then it outlives an end of
/// the plugin. `[lasting]` says that it may take as long as it likes.
#[macro_export]
macro_rules! contract {
    (
        $(#[$doc:meta])*
        $name:ident ($kind:literal) as $addr:ident {
            $($field:ident: $message:ty => $reply:ty $([$($mark:ident),*])?),* $(,)?
        }
        $(shared { $($shared_field:ident: $shared:ty),* $(,)? })?
    ) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        #[doc = concat!("The mailboxes of one provider of [`", stringify!($name), "`].")]
        #[derive(Clone)]
        pub struct $addr {
            $($field: $crate::macro_support::actix::Recipient<$message>,)*
            $($($shared_field: $crate::macro_support::actix::Recipient<$shared>,)*)?
        }

        impl ::std::fmt::Debug for $addr {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(stringify!($addr))
            }
        }

        impl $crate::Contract for $name {
            const KIND: &'static str = $kind;
            type Addr = $addr;
        }

        impl<A> From<&$crate::macro_support::actix::Addr<A>> for $addr
        where
            A: $crate::macro_support::actix::Actor<Context = $crate::macro_support::actix::Context<A>>
                $(+ $crate::Handles<$message>)*
                $($(+ $crate::Handles<$shared>)*)?,
        {
            fn from(addr: &$crate::macro_support::actix::Addr<A>) -> Self {
                Self {
                    $($field: addr.clone().recipient(),)*
                    $($($shared_field: addr.clone().recipient(),)*)?
                }
            }
        }

        $(
            impl $crate::macro_support::actix::Message for $message {
                type Result = $crate::Result<$reply>;
            }
            impl $crate::Call for $message {
                type Reply = $reply;
                $($($crate::call_mark!($mark);)*)?
            }
            impl $crate::Carries<$message> for $name {
                fn recipient(addr: &$addr) -> &$crate::macro_support::actix::Recipient<$message> {
                    &addr.$field
                }
            }
        )*
        $($(
            impl $crate::Carries<$shared> for $name {
                fn recipient(addr: &$addr) -> &$crate::macro_support::actix::Recipient<$shared> {
                    &addr.$shared_field
                }
            }
        )*)?
    };
}
