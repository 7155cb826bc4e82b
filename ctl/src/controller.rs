//! The controller as commands see it.

use std::ops::ControlFlow;

use cframe_protocol::v1::{Call, Reply};

use crate::failure::{Exit, Failure};

/// Answers admin calls. The commands are tested against one that has its answers ready.
pub trait Controller {
    /// Makes a call, and returns the pieces of its answer.
    ///
    /// # Errors
    /// When no controller can be reached, or it refuses.
    fn call(
        &mut self,
        call: Call,
        dry_run: bool,
    ) -> impl Future<Output = Result<Vec<Reply>, Failure>>;

    /// Makes a call that is answered over time, and hands on each piece when it comes.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    fn watch(
        &mut self,
        call: Call,
        each: &mut dyn FnMut(Reply),
    ) -> impl Future<Output = Result<(), Failure>>;

    /// Makes a call whose answer does not end by itself, and hands on each piece until it is told to break off.
    /// The next call connects anew.
    ///
    /// # Errors
    /// As [`call`](Self::call), and when the controller falls silent.
    fn follow(
        &mut self,
        call: Call,
        each: &mut dyn FnMut(Reply) -> ControlFlow<()>,
    ) -> impl Future<Output = Result<ControlFlow<()>, Failure>>;

    /// Lets go of the connection: a person is asked next, and may take minutes.
    fn rest(&mut self) -> impl Future<Output = ()>;
}

/// The things of a list answer, put together again.
///
/// # Errors
/// When a piece is of another kind.
pub(crate) fn rows<T>(
    replies: Vec<Reply>,
    kind: impl Fn(Reply) -> Option<Vec<T>>,
) -> Result<Vec<T>, Failure> {
    let mut rows = Vec::new();
    for reply in replies {
        rows.extend(kind(reply).ok_or_else(unexpected)?);
    }
    Ok(rows)
}

/// The one thing that an answer is.
///
/// # Errors
/// When it is none, several, or of another kind.
pub(crate) fn one<T>(replies: Vec<Reply>, kind: impl Fn(Reply) -> Option<T>) -> Result<T, Failure> {
    let mut replies = replies.into_iter();
    match (replies.next().and_then(kind), replies.next()) {
        (Some(thing), None) => Ok(thing),
        (None | Some(_), _) => Err(unexpected()),
    }
}

/// The one row of a list answer that is about one thing.
///
/// # Errors
/// When there is none.
pub(crate) fn first<T>(rows: Vec<T>) -> Result<T, Failure> {
    rows.into_iter().next().ok_or_else(unexpected)
}

fn unexpected() -> Failure {
    Failure::new(Exit::Error, "the controller answered something that this cfctl doesn't expect")
        .hint("compare their versions: cfctl version")
}

/// Takes one kind of [`Reply`] apart: `kind!(Edges)` is a function to `Option` of its content.
macro_rules! kind {
    ($kind:ident) => {
        |reply| {
            if let cframe_protocol::v1::Reply::$kind(content) = reply {
                Some(content)
            } else {
                None
            }
        }
    };
}
pub(crate) use kind;
