//! Lists of names in messages.

use std::{cmp::Ordering, fmt::Display};

use cframe_pki::identity::Label;
use cframe_protocol::{natural::compare, v1::Lacking};

/// The order of names in lists.
pub(crate) fn natural(one: &Label, other: &Label) -> Ordering {
    compare(one.as_str(), other.as_str())
}

/// The order of namespaces and names in lists.
pub(crate) fn by_name(one: (&Label, &Label), other: (&Label, &Label)) -> Ordering {
    natural(one.0, other.0).then_with(|| natural(one.1, other.1))
}

pub(crate) fn in_order<'a>(names: impl IntoIterator<Item = &'a Label>) -> Vec<Label> {
    let mut names: Vec<Label> = names.into_iter().cloned().collect();
    names.sort_by(natural);
    names
}

/// The first few names. A list may have been cut before, so its length says nothing of how many there are.
pub(crate) fn list_names<T: Display>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    match names.get(..5) {
        Some(few) if names.len() > 5 => format!("{}, …", few.join(", ")),
        _ => names.join(", "),
    }
}

/// `prod/a, prod/b (offline), …`
pub(crate) fn list_lacking(lacking: &[Lacking]) -> String {
    list_names(lacking.iter().map(|row| {
        let offline = if row.online { "" } else { " (offline)" };
        format!("{}/{}{offline}", row.namespace, row.edge)
    }))
}
