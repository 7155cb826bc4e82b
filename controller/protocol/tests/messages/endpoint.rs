//! Syntax of endpoints.

use cframe_protocol::v1::Endpoint;

#[test]
fn addresses_and_names_are_parsed_and_normalised() {
    for (text, host, port, ip) in [
        ("203.0.113.7:58423", "203.0.113.7", 58423, true),
        ("[2001:db8::7]:1", "2001:db8::7", 1, true),
        ("gw.example.com:65535", "gw.example.com", 65535, false),
        ("localhost:80", "localhost", 80, false),
    ] {
        let endpoint: Endpoint = text.parse().unwrap();
        assert_eq!(endpoint.to_string(), text);
        assert_eq!((endpoint.host(), endpoint.port()), (host, port));
        assert_eq!(endpoint.ip(), ip.then(|| host.parse().unwrap()));
    }
    let same =
        [("GW.Example.COM:1", "gw.example.com:1"), ("[2001:DB8:0:0::7]:01", "[2001:db8::7]:1")];
    for (text, canonical) in same {
        assert_eq!(text.parse::<Endpoint>().unwrap().as_str(), canonical);
    }
}

#[test]
fn anything_else_is_refused_with_the_reason() {
    for (text, reason) in [
        ("", "no port"),
        ("203.0.113.7", "no port"),
        (":58423", "empty"),
        ("203.0.113.7:0", "1 to 65535"),
        ("203.0.113.7:65536", "1 to 65535"),
        ("203.0.113.7:+80", "1 to 65535"),
        ("203.0.113.7:", "1 to 65535"),
        ("2001:db8::7:58423", "brackets"),
        ("[2001:db8::7:58423", "closed"),
        ("[203.0.113.7]:58423", "no IPv6"),
        ("[fe80::1%eth0]:58423", "no IPv6"),
        ("203.0.113.999:58423", "number"),
        ("203.0.113:58423", "number"),
        ("gw_1.example.com:1", "DNS name"),
        ("-gw.example.com:1", "DNS name"),
        ("gw..example.com:1", "DNS name"),
        ("gw example.com:1", "DNS name"),
        ("0.0.0.0:58423", "reached"),
        ("[::]:58423", "reached"),
        ("224.0.0.1:58423", "reached"),
        ("255.255.255.255:58423", "reached"),
    ] {
        let error = text.parse::<Endpoint>().unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(text), "{text}: {error}");
    }
    let long = format!("{}:1", ["a".repeat(63).as_str(); 4].join("."));
    assert!(long.parse::<Endpoint>().is_err());
}
