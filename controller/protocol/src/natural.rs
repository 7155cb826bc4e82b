//! The order of names for people: `site-2` before `site-10`.

use std::cmp::Ordering;

/// Compares texts, runs of digits by their value. Different texts are never equal.
pub fn compare(one: &str, other: &str) -> Ordering {
    let (mut left, mut right) = (one.as_bytes(), other.as_bytes());
    while let (Some(first), Some(second)) = (left.first(), right.first()) {
        let order = if first.is_ascii_digit() && second.is_ascii_digit() {
            let (mine, theirs) = (take_digits(&mut left), take_digits(&mut right));
            mine.len().cmp(&theirs.len()).then_with(|| mine.cmp(theirs))
        } else {
            (left, right) = (&left[1..], &right[1..]);
            first.cmp(second)
        };
        if order.is_ne() {
            return order;
        }
    }
    left.len().cmp(&right.len()).then_with(|| one.cmp(other))
}

/// Takes the digits at the start of a text, without leading zeros.
fn take_digits<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(count);
    *text = rest;
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_by_their_value() {
        let mut names =
            ["site-10", "site-2", "a", "site-1", "site", "b2", "b10a", "b10", "site-02"];
        names.sort_by(|one, other| compare(one, other));
        let sorted = ["a", "b2", "b10", "b10a", "site", "site-1", "site-02", "site-2", "site-10"];
        assert_eq!(names, sorted);
        assert_eq!(compare("x", "x"), Ordering::Equal);
        assert_eq!(
            compare("n99999999999999999999999", "n100000000000000000000000"),
            Ordering::Less
        );
    }
}
