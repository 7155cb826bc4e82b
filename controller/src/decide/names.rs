//! Lists of names in messages.

use std::fmt::Display;

use cframe_protocol::v1::Lacking;

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
