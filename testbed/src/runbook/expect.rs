//! Compares a program's output with what the document expects.

/// The first expected line without a match in `output` after the matches of the lines before it.
pub(super) fn first_missing<'a>(expected: &'a [String], output: &str) -> Option<&'a str> {
    let mut lines = output.lines().map(normalize_spaces);
    expected
        .iter()
        .find(|pattern| !lines.by_ref().any(|line| matches(&normalize_spaces(pattern), &line)))
        .map(String::as_str)
}

fn normalize_spaces(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether the line matches the whole pattern, in which `…` matches any text, also none.
fn matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ellipsis_matches_any_text_and_everything_else_itself() {
        for (pattern, line, matched) in [
            ("ready", "ready", true),
            ("ready", "not ready", false),
            ("ready", "ready now", false),
            ("… ready", "not ready", true),
            ("a … c … e", "a b c d e", true),
            ("a … c … e", "a b c d", false),
            ("…", "", true),
            ("a…a", "a", false),
        ] {
            assert_eq!(matches(pattern, line), matched, "{pattern:?} {line:?}");
        }
    }

    #[test]
    fn lines_come_in_the_order_of_the_document_with_any_columns() {
        let expected = ["NAME  STATE".to_owned(), "aws-hk …".to_owned()];
        let output = "NAME       STATE\naliyun-sz  online\naws-hk     offline\n";
        assert_eq!(first_missing(&expected, output), None);
        let reversed: Vec<String> = expected.into_iter().rev().collect();
        assert_eq!(first_missing(&reversed, output), Some("NAME  STATE"));
    }
}
