//! Calls to a controller, as the commands make them.

use std::ops::ControlFlow;

use cframe_console::exit::Exit;
use cframe_protocol::v1::{Call, Reply};

use crate::failure::Failure;

/// Answers admin calls. In tests of the commands it is a fake with prepared answers.
pub trait Controller {
    /// Makes a call and returns its whole answer. Lists arrive as one reply.
    fn call(
        &mut self,
        call: Call,
        dry_run: bool,
    ) -> impl Future<Output = Result<Vec<Reply>, Failure>>;

    /// Makes a call that is answered over time, and passes on each piece when it arrives.
    fn watch(
        &mut self,
        call: Call,
        each: &mut dyn FnMut(Reply),
    ) -> impl Future<Output = Result<(), Failure>>;

    /// Makes a call whose answer does not end by itself, and passes on each piece until `each`
    /// breaks off. The next call uses a new connection.
    fn follow(
        &mut self,
        call: Call,
        each: &mut dyn FnMut(Reply) -> ControlFlow<()>,
    ) -> impl Future<Output = Result<ControlFlow<()>, Failure>>;

    /// Closes the connection: a person is asked next and may take minutes to answer.
    fn disconnect(&mut self) -> impl Future<Output = ()>;
}

/// The content of an answer that is one reply.
pub(crate) fn one<T>(replies: Vec<Reply>, kind: impl Fn(Reply) -> Option<T>) -> Result<T, Failure> {
    let mut replies = replies.into_iter();
    match (replies.next().and_then(kind), replies.next()) {
        (Some(content), None) => Ok(content),
        (None | Some(_), _) => Err(unexpected()),
    }
}

/// The row of a list that is about one thing.
pub(crate) fn first<T>(rows: Vec<T>) -> Result<T, Failure> {
    rows.into_iter().next().ok_or_else(unexpected)
}

fn unexpected() -> Failure {
    Failure::new(Exit::Error, "the controller sent an answer that this cfctl does not understand")
        .hint("compare their versions: cfctl version")
}

/// Takes the content out of one kind of [`Reply`]: `kind!(Edges)` is a function to `Option`.
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
