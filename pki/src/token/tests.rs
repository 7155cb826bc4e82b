//! Encoding and decoding of join tokens.

use proptest::prelude::*;

use super::*;

fn token() -> JoinToken {
    JoinToken::new(
        vec!["c1.example.com:58421".into(), "[2001:db8::1]:58421".into()],
        Fingerprint::of_spki(b"root"),
        TokenId::from_bytes([7; 16]),
        TokenSecret::from_bytes([0xa5; 16]),
    )
    .unwrap()
}

/// The text of these bytes with their check value.
fn text_of(mut bytes: Vec<u8>) -> String {
    let check = sha256(&bytes);
    bytes.extend_from_slice(&check[..CHECK_LEN]);
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

fn error(text: &str) -> TokenError {
    text.parse::<JoinToken>().unwrap_err()
}

fn same(a: &JoinToken, b: &JoinToken) -> bool {
    a.addresses == b.addresses
        && (a.pin, a.id) == (b.pin, b.id)
        && a.secret.as_bytes() == b.secret.as_bytes()
}

#[test]
fn a_token_is_read_from_its_text() {
    let text = token().expose();
    assert!(text.starts_with("cfj1."), "{}", *text);
    assert!(same(&text.parse().unwrap(), &token()));
    assert!(same(&format!("  {}\n", *text).parse().unwrap(), &token()), "pasted with spaces");
}

#[test]
fn every_cut_and_change_is_detected() {
    let text = token().expose();
    for end in 0..text.len() {
        assert!(text[..end].parse::<JoinToken>().is_err(), "{end}");
    }
    for at in PREFIX.len()..text.len() {
        let mut changed = text.as_bytes().to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(changed.parse::<JoinToken>().is_err(), "{at}");
    }
    assert!(format!("{}AAAA", *text).parse::<JoinToken>().is_err());
}

#[test]
fn errors_say_what_to_do() {
    let text = token().expose();
    assert_eq!(error("cfj2.AAAA"), TokenError::Prefix);
    assert_eq!(error(""), TokenError::Prefix);
    assert_eq!(error("cfj1.***"), TokenError::Damaged);
    let bytes = URL_SAFE_NO_PAD.decode(&text[PREFIX.len()..]).unwrap();
    for end in [0, 1, 20, bytes.len() - 1] {
        let short = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&bytes[..end]));
        assert_eq!(error(&short), TokenError::Short, "{end}");
    }
    assert_eq!(
        error(&format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([&bytes[..], &[0]].concat()))),
        TokenError::Trailing
    );
    assert_eq!(error(&format!("cfj1.{}", "A".repeat(MAX_LEN))), TokenError::Long(MAX_LEN + 5));
    assert_eq!(error(&text_of(vec![0; 100])), TokenError::Addresses(0));
    assert_eq!(error(&text_of(vec![9; 100])), TokenError::Addresses(9));
    let address = [&[1, 4][..], b"host", &[0; 64]].concat();
    assert!(matches!(error(&text_of(address)), TokenError::Address(_)));
    let not_utf8 = [&[1, 4][..], &[0xff; 4], &[0; 64]].concat();
    assert_eq!(error(&text_of(not_utf8)), TokenError::Damaged);
}

#[test]
fn the_longest_token_is_accepted() {
    let host =
        format!("{}.{}.{}.{}", "a".repeat(63), "a".repeat(63), "a".repeat(63), "a".repeat(57));
    let mut longest = token();
    longest.addresses = vec![format!("{host}:58421"); MAX_ADDRESSES];
    assert_eq!(longest.addresses[0].len(), 255);
    let text = longest.expose();
    assert!(text.len() <= MAX_LEN, "{}", text.len());
    assert!(same(&text.parse().unwrap(), &longest));
}

#[test]
fn nothing_secret_is_in_debug_or_in_errors() {
    let token = token();
    let text = token.expose();
    let shown = format!("{token:?} {:?}", token.secret);
    assert!(!shown.contains("a5a5") && !shown.contains("165"), "{shown}");
    assert!(shown.contains(&token.id.to_string()));
    let message = error(&text[..text.len() - 8]).to_string();
    assert!(!message.contains(&text[20..30]), "{message}");
}

#[test]
fn a_hash_matches_its_secret_and_no_other() {
    let (secret, other) = (TokenSecret::generate().unwrap(), TokenSecret::generate().unwrap());
    let hash = TokenHash::of(&secret);
    assert!(hash.matches(&secret));
    assert!(!hash.matches(&other));
    assert_eq!(hash.as_bytes(), &sha256(secret.as_bytes()));
    assert_ne!(TokenId::generate().unwrap(), TokenId::generate().unwrap());
}

#[test]
fn a_token_has_addresses_that_can_be_dialled() {
    let with = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|text| (*text).to_owned()).collect();
        let token = token();
        JoinToken::new(addresses, token.pin, token.id, token.secret.clone())
    };
    assert!(with(&["a:1"; MAX_ADDRESSES]).is_ok());
    assert_eq!(with(&[]).unwrap_err(), TokenError::Addresses(0));
    assert_eq!(with(&["a:1"; 9]).unwrap_err(), TokenError::Addresses(9));
    let message = with(&["a:1", "nowhere"]).unwrap_err().to_string();
    assert!(message.contains("nowhere") && message.contains("HOST:PORT"), "{message}");
}

proptest! {
    #[test]
    fn any_token_comes_back(
        addresses in prop::collection::vec("[a-z]{1,20}(\\.[a-z]{1,20}){0,3}:[1-9][0-9]{0,3}", 1..=MAX_ADDRESSES),
        pin: [u8; 32],
        id: [u8; 16],
        secret: [u8; 16],
    ) {
        let token = JoinToken::new(
            addresses,
            Fingerprint::from_bytes(pin),
            TokenId::from_bytes(id),
            TokenSecret::from_bytes(secret),
        ).unwrap();
        prop_assert!(same(&token.expose().parse().unwrap(), &token));
    }

    #[test]
    fn garbage_never_panics(text in ".{0,200}", tail in "[A-Za-z0-9_=-]{0,200}", bytes: Vec<u8>) {
        prop_assert!(text.parse::<JoinToken>().is_err());
        let tail = format!("{PREFIX}{tail}");
        prop_assert!(tail.parse::<JoinToken>().is_err());
        // With a valid check value the parser gets further. The bytes may be a token.
        let _ = text_of(bytes).parse::<JoinToken>();
    }
}
