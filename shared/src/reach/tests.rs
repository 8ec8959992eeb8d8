//! Addresses as people and attackers write them.

use super::*;
use crate::settings::Allow;

/// Each line names an address that is not global.
const FORBIDDEN: &str = include_str!("forbidden.txt");

/// Each names one that is.
const PERMITTED: &[&str] = &[
    "http://1.1.1.1/",
    "http://8.8.8.8/",
    "http://9.255.255.255/",
    "http://11.0.0.0/",
    "http://100.63.255.255/",
    "http://100.128.0.0/",
    "http://126.255.255.255/",
    "http://128.0.0.1/",
    "http://134744072/",
    "http://0x08080808/",
    "http://010.8.8.8/",
    "http://168.63.129.15/",
    "http://168.63.129.17/",
    "http://169.253.255.255/",
    "http://169.255.0.0/",
    "http://172.15.255.255/",
    "http://172.32.0.0/",
    "http://191.255.255.255/",
    "http://192.0.1.0/",
    "http://192.0.3.0/",
    "http://192.88.98.255/",
    "http://192.88.100.0/",
    "http://192.167.255.255/",
    "http://192.169.0.0/",
    "http://198.17.255.255/",
    "http://198.20.0.0/",
    "http://198.51.99.255/",
    "http://198.51.101.0/",
    "http://203.0.112.255/",
    "http://203.0.114.0/",
    "http://223.255.255.255/",
    "http://93.184.216.34/",
    "http://[2000::1]/",
    "http://[2606:4700:4700::1111]/",
    "http://[2a00:1450:4001::1]/",
    "http://[2001:200::1]/",
    "http://[2001:4860:4860::8888]/",
    "http://[2001:db7::1]/",
    "http://[2001:db9::1]/",
    "http://[2003::1]/",
    "http://[2620:fe::fe]/",
    "http://[3ffe::1]/",
    "http://[3fff:1000::1]/",
    "http://[::ffff:8.8.8.8]/",
    "http://[::ffff:1.1.1.1]/",
    "https://8.8.8.8:8443/a",
    "http://127.0.0.1@8.8.8.8/",
    "http://10.0.0.1:x@1.1.1.1/",
];

fn rules(texts: &[&str]) -> Reach {
    Reach::global_and(&texts.iter().map(|text| text.parse::<Allow>().unwrap()).collect::<Vec<_>>())
}

/// The address that a URL names by itself.
fn literal(url: &str) -> IpAddr {
    match url::Url::parse(url).unwrap_or_else(|error| panic!("{url}: {error}")).host() {
        Some(url::Host::Ipv4(address)) => address.into(),
        Some(url::Host::Ipv6(address)) => address.into(),
        other => panic!("{url}: {other:?}"),
    }
}

const ASKED: Asked<'static> = Asked { scheme: "http", host: "hooks.example.com", port: 80 };

#[test]
fn what_is_not_global_is_refused_however_it_is_spelt() {
    assert!(FORBIDDEN.lines().count() >= 150);
    let passed: Vec<_> = FORBIDDEN
        .lines()
        .map(|url| (url, literal(url)))
        .filter(|(_, address)| Reach::default().check(ASKED, *address).is_ok())
        .collect();
    assert!(passed.is_empty(), "{passed:?}");
}

#[test]
fn what_is_global_is_permitted_up_to_the_edges() {
    for url in PERMITTED {
        assert_eq!(Reach::default().check(ASKED, literal(url)), Ok(()), "{url}");
    }
}

#[test]
fn every_address_of_a_closed_network_is_closed() {
    for (network, prefix, _) in CLOSED_V4 {
        let (first, size) = (u32::from(network), 1_u64 << (32 - u32::from(prefix)));
        let last = u32::try_from(u64::from(first) + size - 1).unwrap();
        for address in [first, first + u32::try_from(size / 2).unwrap(), last] {
            assert!(closed(Ipv4Addr::from(address).into()).is_some(), "{}", Ipv4Addr::from(address));
            let mapped = Ipv4Addr::from(address).to_ipv6_mapped();
            assert!(closed(mapped.into()).is_some(), "{mapped}");
        }
    }
}

#[test]
fn rules_open_what_they_name_and_no_more() {
    let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
    let mapped: IpAddr = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
    let asked = |scheme, host, port| Asked { scheme, host, port };
    let http = asked("http", "hooks.internal", 80);
    for (rule, asked, address, permitted) in [
        ("127.0.0.0/8", http, loopback, true),
        ("127.0.0.0/8", http, mapped, true),
        ("127.0.0.2", http, loopback, false),
        ("10.0.0.0/8", http, loopback, false),
        ("0.0.0.0/0", http, loopback, true),
        ("::/0", http, loopback, false),
        ("::/0", http, mapped, true),
        ("::1", http, Ipv6Addr::LOCALHOST.into(), true),
        ("hooks.internal", http, loopback, true),
        ("hooks.internal", asked("http", "HOOKS.internal.", 80), loopback, true),
        ("hooks.internal", asked("http", "x.hooks.internal", 80), loopback, false),
        ("*.internal", http, loopback, true),
        ("*.internal", asked("http", "a.b.internal", 80), loopback, true),
        ("*.internal", asked("http", "internal", 80), loopback, false),
        ("*.internal", asked("http", ".internal", 80), loopback, false),
        ("*.internal", asked("http", "evilinternal", 80), loopback, false),
        ("*.internal", asked("http", "hooks.internal.evil.com", 80), loopback, false),
        ("https://*.internal", http, loopback, false),
        ("https://*.internal", asked("https", "a.internal", 443), loopback, true),
        ("http://*.internal:8080", http, loopback, false),
        ("http://*.internal:8080", asked("http", "a.internal", 8080), loopback, true),
        ("*", asked("http", "anything", 1), loopback, true),
        ("https://*", http, loopback, false),
    ] {
        assert_eq!(rules(&[rule]).check(asked, address).is_ok(), permitted, "{rule} {asked:?} {address}");
    }
    assert_eq!(Reach::anywhere().check(http, loopback), Ok(()));
}

#[test]
fn a_refusal_says_what_the_address_is() {
    let refused = Reach::default().check(ASKED, [169, 254, 169, 254].into()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the address 169.254.169.254 is refused: it is link-local, where clouds keep their metadata, and no \
         rule allows it"
    );
}
