//! Text from outside, made safe to store and to show.

use std::borrow::Cow;

/// Characters of a text in a record.
const MAX_LENGTH: usize = 200;
const TOKEN_PREFIX: &str = "cfj1.";

/// The text on one line, without control characters, without the secret of a join token, and not too long.
pub(super) fn clean(text: &str) -> String {
    let text = without_tokens(text);
    let mut clean: String = text.chars().take(MAX_LENGTH).map(plain).collect();
    if text.chars().nth(MAX_LENGTH).is_some() {
        clean.push('…');
    }
    clean
}

/// Replaces characters that control a terminal, or change the order in which it shows text.
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

/// An admin may paste a whole token instead of its id, and the error repeats it.
fn without_tokens(text: &str) -> Cow<'_, str> {
    if !text.contains(TOKEN_PREFIX) {
        return Cow::Borrowed(text);
    }
    let mut parts = text.split(TOKEN_PREFIX);
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let base64url = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '=');
        clean.push_str(TOKEN_PREFIX);
        clean.push('…');
        clean.push_str(part.trim_start_matches(base64url));
    }
    Cow::Owned(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_characters_and_no_tokens_are_stored() {
        assert_eq!(clean("a\u{1b}[2J\u{9b}b\nc\u{202e}d"), "a\u{fffd}[2J\u{fffd}b c\u{fffd}d");
        assert_eq!(clean("\"cfj1.AQ_x-9\" is no id"), "\"cfj1.…\" is no id");
        assert_eq!(clean("cfj1.aa cfj1.bb"), "cfj1.… cfj1.…");
        assert_eq!(clean(&"é".repeat(300)).chars().count(), MAX_LENGTH + 1);
        assert_eq!(clean("Hong Kong, 香港"), "Hong Kong, 香港");
    }
}
