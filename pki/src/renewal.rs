//! When a certificate is renewed. All functions are pure.

use std::time::Duration;

/// Before jitter.
pub const RETRY_DELAY: Duration = Duration::from_secs(3600);

/// Warnings about an expiry start this many days before it.
pub const WARN_DAYS: u64 = 14;

/// Whether to warn that something expires, or has expired: it has [`WARN_DAYS`] left or fewer, and
/// more than half of its lifetime is over. Certificates that renew themselves have done so by then.
pub fn expires_soon(not_before: u64, not_after: u64, now: u64) -> bool {
    let half = not_before.saturating_add(not_after.saturating_sub(not_before) / 2);
    now >= half && now.saturating_add(WARN_DAYS * 86_400) >= not_after
}

/// When the first renewal of a certificate is due, in Unix seconds.
///
/// The seed spreads it from 1/3 to 13/30 of the lifetime, so that edges which joined together don't
/// renew together. 17 of 30 days are left for retries while no controller is reachable.
pub fn renew_at(not_before: u64, not_after: u64, seed: u64) -> u64 {
    let lifetime = not_after.saturating_sub(not_before);
    not_before.saturating_add(lifetime / 3).saturating_add(scaled(lifetime / 10, seed))
}

/// When to retry a renewal that failed at `now`, in Unix seconds: after [`RETRY_DELAY`], plus or
/// minus a tenth by the seed.
pub fn retry_at(now: u64, seed: u64) -> u64 {
    let retry = RETRY_DELAY.as_secs();
    now.saturating_add(retry - retry / 10).saturating_add(scaled(retry / 5, seed))
}

/// Whole days until a certificate expires, rounded down; negative afterwards.
pub fn days_left(not_after: u64, now: u64) -> i64 {
    const DAY: i64 = 86_400;
    let seconds = |time| i64::try_from(time).unwrap_or(i64::MAX);
    (seconds(not_after) - seconds(now)).div_euclid(DAY)
}

/// A value in `0..=range`, evenly spread even over seeds such as 1 and 2.
fn scaled(range: u64, seed: u64) -> u64 {
    // The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let product = u128::from(mixed) * (u128::from(range) + 1);
    // The upper half of a product with `range + 1` is at most `range`.
    u64::try_from(product >> 64).unwrap_or(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 86_400;

    #[test]
    fn thirty_days_are_renewed_from_the_tenth_to_the_thirteenth() {
        let times: Vec<u64> = (0..1000).map(|seed| renew_at(0, 30 * DAY, seed)).collect();
        assert!(times.iter().all(|at| (10 * DAY..=13 * DAY).contains(at)));
        let early = times.iter().filter(|at| **at < 11 * DAY + DAY / 2).count();
        assert!((400..600).contains(&early), "{early} of 1000 in the first half");
    }

    #[test]
    fn days_left_round_down_and_go_below_zero() {
        assert_eq!(days_left(30 * DAY, 0), 30);
        assert_eq!(days_left(30 * DAY, 1), 29);
        assert_eq!(days_left(DAY, DAY), 0);
        assert_eq!(days_left(DAY, DAY + 1), -1);
    }

    #[test]
    fn warnings_start_fourteen_days_before_and_leave_out_what_renews_itself() {
        assert!(!expires_soon(0, 3650 * DAY, 3635 * DAY));
        assert!(expires_soon(0, 3650 * DAY, 3636 * DAY));
        assert!(!expires_soon(0, 30 * DAY, 14 * DAY), "renewed by the 13th day");
        assert!(expires_soon(0, 30 * DAY, 16 * DAY));
        assert!(!expires_soon(0, DAY, DAY / 3), "a short lifetime alone is no reason");
        assert!(expires_soon(0, DAY, 2 * DAY), "but an expired one is");
    }

    proptest! {
        #[test]
        fn renewal_falls_inside_the_lifetime(from: u64, lifetime: u32, seed: u64) {
            let from = from / 2;
            let until = from + u64::from(lifetime);
            let at = renew_at(from, until, seed);
            prop_assert!((from..=until).contains(&at));
        }

        #[test]
        fn a_retry_is_an_hour_give_or_take_a_tenth(now in 0..u64::MAX / 2, seed: u64) {
            prop_assert!((3240..=3960).contains(&(retry_at(now, seed) - now)));
        }

        #[test]
        fn days_left_never_overflows(not_after: u64, now: u64) {
            days_left(not_after, now);
        }
    }
}
