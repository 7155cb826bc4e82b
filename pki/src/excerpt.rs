//! Quoting untrusted text in error messages.

const MAX_CHARS: usize = 300;

/// The start of `text`, with `…` if more follows.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
