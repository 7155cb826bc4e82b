use cframe_console::exit::Exit;
use cframe_protocol::v1::{Call, Reply};

use crate::{
    args::{TokenCreate, TokenVerb},
    controller::{Controller, kind, one},
    failure::Failure,
    session::{Session, WaitFor},
    timestamp::short,
    view::{NewToken, Subject, Token},
};

pub(super) async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    verb: TokenVerb,
) -> Result<Exit, Failure> {
    match verb {
        TokenVerb::Create(create) => create_token(session, create).await,
        TokenVerb::List { all_namespaces } => {
            let namespace = session.scope(all_namespaces);
            let rows = session.query(Call::TokenList { namespace }, kind!(Tokens)).await?;
            session.list::<Token>(rows)
        }
        TokenVerb::Revoke { id } => {
            let subject = Subject::of_mesh("token", &id);
            session.make_change(Call::TokenRevoke { id }, subject, "revoked", WaitFor::Nobody).await
        }
    }
}

async fn create_token<C: Controller>(
    session: &mut Session<'_, '_, C>,
    create: TokenCreate,
) -> Result<Exit, Failure> {
    let namespace = session.namespace()?;
    let TokenCreate { edge, ttl, rejoin } = create;
    // At most a day: the parser checked it.
    let ttl_secs = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
    let call =
        Call::TokenCreate { namespace: namespace.clone(), edge: edge.clone(), ttl_secs, rejoin };
    let replies: Vec<Reply> = session.controller.call(call, session.options.dry_run).await?;
    if session.options.dry_run {
        let subject = Subject::of("token", &namespace, edge);
        return session.print_dry_run(replies, subject, "made");
    }
    let made = one(replies, kind!(TokenMade))?;
    session.console.info(&format!(
        "run this on the gateway of {namespace}/{edge}; the token works once, for {}, and is not shown again",
        short(ttl)
    ));
    let token = NewToken::new(namespace.to_string(), edge.to_string(), made);
    session.console.answer(&token)?;
    Ok(Exit::Done)
}
