//! Text that comes from other hosts.

use std::borrow::Cow;

/// The text on one line, without characters that control a terminal or change the order of text.
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_control = |c: char| {
        let bidi = matches!(c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        c.is_control() || bidi
    };
    if !text.chars().any(is_control) {
        return Cow::Borrowed(text);
    }
    let replace = |c: char| match c {
        '\n' | '\t' => ' ',
        c if is_control(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    Cow::Owned(text.trim_end().chars().map(replace).collect())
}

/// At most `max` bytes of a text.
pub fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_stranger_does_not_control_the_terminal() {
        assert_eq!(printable("\u{9b}2J \u{202e}txt.exe"), "\u{fffd}2J \u{fffd}txt.exe");
        assert_eq!(printable("two\nlines\n"), "two lines");
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut("éé", 3), "é");
        assert_eq!(cut("éé", 9), "éé");
    }
}
