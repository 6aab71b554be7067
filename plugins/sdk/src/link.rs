//! Links: how a plugin reaches another one by contract.

use std::any::{Any, type_name};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::{MailboxError, Recipient};
use capstan_schema::{Error, Result};

/// A message of a contract, with the type of its answer.
pub trait Call: actix::Message<Result = Result<Self::Reply>> + Send + 'static {
    /// What comes back when it works.
    type Reply: Send + 'static;
}

/// A contract: the messages that every plugin of one kind understands. Made by `contract!`.
pub trait Contract: 'static {
    /// The kind: the part of a plugin id before the first dot.
    const KIND: &'static str;
    /// The mailboxes of one provider, one per message type.
    type Addr: Clone + Send + Sync + 'static;
}

/// Says that a contract has this message.
pub trait Carries<M: Call>: Contract {
    /// The mailbox for it.
    fn recipient(addr: &Self::Addr) -> &Recipient<M>;
}

/// Counters of one plugin, over all of its instances.
#[derive(Debug, Default)]
pub struct Stats {
    /// Typed messages answered.
    pub calls: AtomicU64,
    /// Typed messages lost in a panic or in a dead instance.
    pub failures: AtomicU64,
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

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.id, self.generation)
    }
}

/// The registry, as links use it. The kernel implements it.
pub trait Lookup: Send + Sync {
    /// The live instance behind `target`: a plugin id, or a kind, which means the preferred plugin
    /// of that kind.
    ///
    /// # Errors
    /// `NotFound`: nothing has this name. `Unavailable`: it is not running, with the reason.
    fn provider(&self, target: &str) -> Result<Provider>;

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
    /// # Errors
    /// What the plugin answers. `Unavailable`: it is down, or it ended with this call in its hands;
    /// whether the call took effect is then not known.
    pub async fn send<M: Call>(&self, message: M) -> Result<M::Reply>
    where
        C: Carries<M>,
    {
        let provider = self.lookup.provider(&self.target)?;
        let addr = provider.addr.downcast_ref::<C::Addr>().ok_or_else(|| {
            Error::internal(format!("{} does not speak the contract {}", provider.id, C::KIND))
        })?;
        match C::recipient(addr).send(message).await {
            Ok(answer) => {
                provider.stats.calls.fetch_add(1, Ordering::Relaxed);
                answer
            }
            Err(MailboxError::Closed | MailboxError::Timeout) => {
                provider.stats.failures.fetch_add(1, Ordering::Relaxed);
                let name = type_name::<M>().rsplit("::").next().unwrap_or_default();
                Err(Error::unavailable(format!(
                    "{} broke off while it handled {name}; try again, the daemon's log has the cause",
                    provider.id
                )))
            }
        }
    }
}

/// Declares a contract: a marker type, its address type, and which messages it carries.
#[macro_export]
macro_rules! contract {
    (
        $(#[$doc:meta])*
        $name:ident ($kind:literal) as $addr:ident { $($field:ident: $message:ty => $reply:ty),* $(,)? }
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
                $(+ $crate::macro_support::actix::Handler<$message>)*
                $($(+ $crate::macro_support::actix::Handler<$shared>)*)?,
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
