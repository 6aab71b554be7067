//! How often each message was answered, and how: one addition for each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use capstan_schema::{Class, Error};

/// The word for an answer that is no error.
const OK: &str = "OK";

/// All classes of errors.
const CLASSES: [Class; 11] = [
    Class::Internal,
    Class::NotFound,
    Class::AlreadyExists,
    Class::InvalidArgument,
    Class::FailedPrecondition,
    Class::Unavailable,
    Class::PermissionDenied,
    Class::ResourceExhausted,
    Class::Corrupt,
    Class::Aborted,
    Class::Unimplemented,
];

/// Answers with one outcome to one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answered {
    /// The name of the message's type: `Create`.
    pub message: &'static str,
    /// `OK`, or the class of the error.
    pub outcome: &'static str,
    /// How often.
    pub count: u64,
}

/// Counts by message and outcome. There are as many messages as the plugin's contract has.
#[derive(Debug, Default)]
pub struct Answers(RwLock<Vec<Row>>);

/// One message: its type, and the counts: first of `OK`, then of each class.
#[derive(Debug)]
struct Row(&'static str, [AtomicU64; CLASSES.len() + 1]);

impl Answers {
    /// Counts one. `message` is the name of its type; `error`, if it was answered with one.
    pub(crate) fn note(&self, message: &'static str, error: Option<&Error>) {
        let index = error.map_or(0, |error| {
            let place = CLASSES.iter().position(|class| *class == error.class());
            place.map_or(1, |place| place + 1)
        });
        // The same type has the same text, mostly at the same place: no need to compare all of it.
        let find = |rows: &[Row]| {
            let row = rows.iter().find(|row| std::ptr::eq(row.0, message))?;
            Some(row.1[index].fetch_add(1, Ordering::Relaxed))
        };
        if find(&self.0.read().unwrap_or_else(PoisonError::into_inner)).is_some() {
            return;
        }
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if find(&rows).is_none() {
            rows.push(Row(message, Default::default()));
            find(&rows);
        }
    }

    /// What was counted, ordered by message.
    pub fn list(&self) -> Vec<Answered> {
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<Answered> = Vec::new();
        for Row(message, counts) in rows.iter() {
            let message = message.rsplit("::").next().unwrap_or(message);
            let outcomes = std::iter::once(OK).chain(CLASSES.map(Class::name));
            for (outcome, count) in outcomes.zip(counts) {
                let count = count.load(Ordering::Relaxed);
                match list.iter_mut().find(|one| (one.message, one.outcome) == (message, outcome)) {
                    // The text of one type was at two places.
                    Some(known) => known.count += count,
                    None if count > 0 => list.push(Answered { message, outcome, count }),
                    None => {}
                }
            }
        }
        list.sort();
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_counted_by_how_it_was_answered() {
        let answers = Answers::default();
        for _ in 0..3 {
            answers.note("a::b::Create", None);
        }
        answers.note("a::b::Create", Some(&Error::not_found("it")));
        answers.note("a::List", Some(&Error::internal("it")));
        let answered = |message, outcome, count| Answered { message, outcome, count };
        let want = [
            answered("Create", "NotFound", 1),
            answered("Create", "OK", 3),
            answered("List", "Internal", 1),
        ];
        assert_eq!(answers.list(), want);
    }

    #[test]
    fn every_class_has_its_place() {
        let answers = Answers::default();
        for class in CLASSES {
            answers.note("M", Some(&Error::new(class, "it")));
        }
        let list = answers.list();
        assert_eq!(list.len(), CLASSES.len(), "{list:?}");
        assert!(CLASSES.iter().all(|class| list.iter().any(|one| one.outcome == class.name())));
    }
}
