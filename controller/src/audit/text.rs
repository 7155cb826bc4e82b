//! What people and strangers wrote, fit to be kept and shown.

use std::borrow::Cow;

/// The longest text in a record, in characters.
const LONGEST: usize = 200;
/// What a join token begins with.
const TOKEN: &str = "cfj1.";

/// The text on one line, without control characters, without the secret of a join token, and not too long.
pub(super) fn clean(text: &str) -> String {
    let text = without_tokens(text);
    let mut clean: String = text.chars().take(LONGEST).map(plain).collect();
    if text.chars().nth(LONGEST).is_some() {
        clean.push('…');
    }
    clean
}

/// A terminal obeys control characters, and shows text in another order at others.
fn plain(c: char) -> char {
    match c {
        '\n' | '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        // Marks, embeddings, overrides and isolates of the bidirectional algorithm; separators of lines.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            char::REPLACEMENT_CHARACTER
        }
        c => c,
    }
}

/// Somebody pastes a whole token where its id belongs, and an error repeats it.
fn without_tokens(text: &str) -> Cow<'_, str> {
    if !text.contains(TOKEN) {
        return Cow::Borrowed(text);
    }
    let mut parts = text.split(TOKEN);
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let base64url = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '=');
        kept.push_str(TOKEN);
        kept.push('…');
        kept.push_str(part.trim_start_matches(base64url));
    }
    Cow::Owned(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_driven_and_a_token_not_kept() {
        assert_eq!(clean("a\u{1b}[2J\u{9b}b\nc\u{202e}d"), "a\u{fffd}[2J\u{fffd}b c\u{fffd}d");
        assert_eq!(clean("\"cfj1.AQ_x-9\" is no id"), "\"cfj1.…\" is no id");
        assert_eq!(clean("cfj1.aa cfj1.bb"), "cfj1.… cfj1.…");
        assert_eq!(clean(&"é".repeat(300)).chars().count(), LONGEST + 1);
        assert_eq!(clean("Hong Kong, 香港"), "Hong Kong, 香港");
    }
}
