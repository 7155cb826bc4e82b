use std::path::Path;

use cframe_console::exit::Exit;
use cframe_pki::identity::{Label, Role};

use crate::{
    args::ContextVerb,
    console::Console,
    context::{Context, Contexts},
    failure::Failure,
    timestamp::Timestamp,
    value::OptionalLabel,
    view::{self, List, One},
};

/// Runs a command about the contexts in the file `path`.
pub(crate) fn run(
    console: &mut Console<'_>,
    path: &Path,
    verb: ContextVerb,
    now: u64,
) -> Result<Exit, Failure> {
    match verb {
        ContextVerb::List => {
            let contexts = Contexts::load_or_default(path)?;
            let all = contexts.contexts.iter();
            let items: Vec<_> = all.map(|(name, context)| row(&contexts, name, context)).collect();
            console.answer(&List { items: &items, now })?;
        }
        ContextVerb::Show { name } => {
            let contexts = Contexts::load(path)?;
            let (name, context) = contexts.select(name.as_deref())?;
            console.answer(&One { item: &row(&contexts, name, context), now })?;
        }
        ContextVerb::Use { name } => {
            let mut contexts = Contexts::load(path)?;
            contexts.select(Some(&name))?;
            contexts.current = Some(name.clone());
            contexts.save(path)?;
            console.info(&format!("context {name} is now the current one"));
        }
        ContextVerb::Set { name, default_namespace } => {
            set(console, path, name.as_deref(), default_namespace)?;
        }
        ContextVerb::Import { file, rename, replace } => {
            import(console, path, &file, rename.as_ref(), replace)?;
        }
        ContextVerb::Del { name } => del(console, path, &name)?,
    }
    Ok(Exit::Done)
}

fn row(contexts: &Contexts, name: &str, context: &Context) -> view::Context {
    let identity = context.identity().ok();
    let admin = identity.as_ref().and_then(|identity| match &identity.id.role {
        Role::Admin { name } => Some(name.to_string()),
        Role::Edge { .. } | Role::Controller { .. } => None,
    });
    view::Context {
        name: name.to_owned(),
        current: contexts.current.as_deref() == Some(name),
        mesh: context.mesh.to_string(),
        admin,
        namespace: context.namespace.as_ref().map(ToString::to_string),
        not_after: identity.map(|identity| Timestamp(identity.not_after)),
        controllers: context.controllers.clone(),
    }
}

fn set(
    console: &mut Console<'_>,
    path: &Path,
    name: Option<&str>,
    OptionalLabel(namespace): OptionalLabel,
) -> Result<(), Failure> {
    let mut contexts = Contexts::load(path)?;
    let name = contexts.select(name)?.0.to_owned();
    let shown = namespace.as_ref().map_or("none".to_owned(), ToString::to_string);
    if let Some(context) = contexts.contexts.get_mut(&name) {
        context.namespace = namespace;
    }
    contexts.save(path)?;
    console.info(&format!("default namespace of context {name}: {shown}"));
    Ok(())
}

fn import(
    console: &mut Console<'_>,
    path: &Path,
    file: &Path,
    rename: Option<&Label>,
    replace: bool,
) -> Result<(), Failure> {
    let from = match file == Path::new("-") {
        true => Contexts::from_stdin(&mut *console.input)?,
        false => Contexts::load(file)?,
    };
    let mut contexts = Contexts::load_or_default(path)?;
    if rename.is_some() && from.contexts.len() != 1 {
        let message = format!(
            "{} has {} contexts, and --rename needs one",
            file.display(),
            from.contexts.len()
        );
        return Err(Failure::new(Exit::Usage, message).hint("leave out --rename"));
    }
    let mut first = None;
    for (name, context) in from.contexts {
        context.credentials().map_err(|error| error.context(format!("context {name}")))?;
        context.trust().map_err(|error| error.context(format!("context {name}")))?;
        let name = rename.map_or(name, ToString::to_string);
        if contexts.contexts.contains_key(&name) && !replace {
            return Err(Failure::new(Exit::Conflict, format!("there is a context {name} already"))
                .hint("add --replace, or give it another name with --rename NAME"));
        }
        contexts.contexts.insert(name.clone(), context);
        console.info(&format!("context {name} imported"));
        first.get_or_insert(name);
    }
    if contexts.current.is_none() {
        contexts.current =
            from.current.filter(|name| contexts.contexts.contains_key(name)).or(first);
    }
    contexts.save(path)
}

fn del(console: &mut Console<'_>, path: &Path, name: &str) -> Result<(), Failure> {
    let mut contexts = Contexts::load(path)?;
    if contexts.contexts.remove(name).is_none() {
        return Err(contexts.unknown(name));
    }
    if contexts.current.as_deref() == Some(name) {
        contexts.current = None;
    }
    contexts.save(path)?;
    console.info(&format!("context {name} removed"));
    Ok(())
}
