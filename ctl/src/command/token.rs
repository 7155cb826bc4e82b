//! `cfctl token …`

use cframe_protocol::v1::{Call, Reply};

use crate::{
    args::{TokenCreate, TokenVerb},
    controller::{Controller, kind, one, rows},
    failure::{Exit, Failure},
    moment::short,
    session::{Reach, Session},
    view::{NewToken, Subject, Token},
};

pub(super) async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    verb: TokenVerb,
) -> Result<Exit, Failure> {
    match verb {
        TokenVerb::Create(create) => make(session, create).await,
        TokenVerb::List { all_namespaces } => {
            let namespace = session.scope(all_namespaces);
            let rows = rows(session.ask(Call::TokenList { namespace }).await?, kind!(Tokens))?;
            let tokens: Vec<_> = rows.into_iter().map(Token::from).collect();
            session.list(&tokens)
        }
        TokenVerb::Revoke { id } => {
            let subject = Subject::of_mesh("token", &id);
            session.change(Call::TokenRevoke { id }, subject, "revoked", Reach::Nobody).await
        }
    }
}

async fn make<C: Controller>(
    session: &mut Session<'_, '_, C>,
    create: TokenCreate,
) -> Result<Exit, Failure> {
    let namespace = session.namespace()?;
    let TokenCreate { edge, ttl, rejoin } = create;
    // The parser has let no longer life through than a day.
    let ttl_secs = u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
    let call =
        Call::TokenCreate { namespace: namespace.clone(), edge: edge.clone(), ttl_secs, rejoin };
    let replies: Vec<Reply> = session.controller.call(call, session.terms.dry_run).await?;
    if session.terms.dry_run {
        let subject = Subject::of("token", &namespace, edge);
        return session.rehearsed(replies, subject, "made");
    }
    let made = one(replies, kind!(TokenMade))?;
    session.console.note(&format!(
        "run this on the gateway of {namespace}/{edge}; it works once, for {}, and is not shown again",
        short(ttl)
    ));
    let token = NewToken::new(namespace.to_string(), edge.to_string(), made);
    session.console.answer(&token)?;
    Ok(Exit::Done)
}
