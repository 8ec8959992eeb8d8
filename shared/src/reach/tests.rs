//! Addresses as people and attackers write them.

use super::*;
use crate::settings::Allow;

/// Each names an address that is not global.
const FORBIDDEN: &[&str] = &[
    "http://127.0.0.1/",
    "http://127.0.0.1:80/",
    "http://127.1/",
    "http://127.0.1/",
    "http://127.255.255.254/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0x0.0x0.0x1/",
    "http://0x7f.1/",
    "http://0177.0.0.1/",
    "http://0177.0.0.01/",
    "http://017700000001/",
    "http://0x7F.0.0.1/",
    "http://127.0.0.1./",
    "http://0x7f.0.1/",
    "http://127.0.0.0x1/",
    "http://127.0.0.01/",
    "http://0177.1/",
    "http://%31%32%37.0.0.1/",
    "http://127%2e0.0.1/",
    "http://１２７.０.０.１/",
    "http://127。0。0。1/",
    "http://①②⑦.⓪.⓪.①/",
    "http://127．0．0．1/",
    "http://0/",
    "http://0.0.0.0/",
    "http://0x0/",
    "http://00/",
    "http://0.0.0.1/",
    "http://0.255.255.255/",
    "http://0.1/",
    "http://10.0.0.0/",
    "http://10.0.0.1/",
    "http://10.255.255.255/",
    "http://10.1/",
    "http://167772161/",
    "http://0xa000001/",
    "http://0xa.0.0.1/",
    "http://012.0.0.1/",
    "http://012.1/",
    "http://100.64.0.1/",
    "http://100.100.100.200/",
    "http://100.127.255.255/",
    "http://0x64.64.0.1/",
    "http://1681915905/",
    "http://0144.0100.0.1/",
    "http://168.63.129.16/",
    "http://0xa83f8110/",
    "http://2822734096/",
    "http://169.254.0.1/",
    "http://169.254.169.254/",
    "http://169.254.170.2/",
    "http://169.254.169.123/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://0xa9.0xfe.0xa9.0xfe/",
    "http://169.254.43518/",
    "http://169.16689662/",
    "http://0251.254.169.254/",
    "http://169.254.255.255/",
    "http://172.16.0.0/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://172.20.10.1/",
    "http://0xac100001/",
    "http://172.17.0.1/",
    "http://2886729729/",
    "http://0254.020.0.1/",
    "http://192.0.0.0/",
    "http://192.0.0.8/",
    "http://192.0.0.170/",
    "http://192.0.0.192/",
    "http://192.0.0.255/",
    "http://192.0.2.0/",
    "http://192.0.2.1/",
    "http://192.0.2.255/",
    "http://192.88.99.1/",
    "http://192.88.99.255/",
    "http://192.168.0.0/",
    "http://192.168.0.1/",
    "http://192.168.1.1/",
    "http://192.168.255.255/",
    "http://3232235521/",
    "http://0xc0a80001/",
    "http://192.168.257/",
    "http://0300.0250.0.1/",
    "http://0300.0xa8.1/",
    "http://198.18.0.0/",
    "http://198.18.0.1/",
    "http://198.19.255.255/",
    "http://198.51.100.1/",
    "http://198.51.100.255/",
    "http://203.0.113.0/",
    "http://203.0.113.1/",
    "http://224.0.0.1/",
    "http://224.0.0.251/",
    "http://239.255.255.250/",
    "http://239.255.255.255/",
    "http://232.1.1.1/",
    "http://0xe0000001/",
    "http://240.0.0.1/",
    "http://250.1.1.1/",
    "http://254.255.255.255/",
    "http://255.255.255.255/",
    "http://4294967295/",
    "http://0xffffffff/",
    "http://037777777777/",
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[0000::0001]/",
    "http://[::0001]:8080/",
    "http://[::2]/",
    "http://[::ffff]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[0:0:0:0:0:ffff:127.0.0.1]/",
    "http://[::FFFF:7F00:0001]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[::ffff:192.168.1.1]/",
    "http://[::ffff:0.0.0.0]/",
    "http://[::ffff:100.64.0.1]/",
    "http://[::ffff:172.16.0.1]/",
    "http://[::ffff:224.0.0.1]/",
    "http://[::ffff:255.255.255.255]/",
    "http://[::ffff:198.18.0.1]/",
    "http://[::127.0.0.1]/",
    "http://[::10.0.0.1]/",
    "http://[::8.8.8.8]/",
    "http://[::7f00:1]/",
    "http://[::ffff:0:127.0.0.1]/",
    "http://[::ffff:0:808:808]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b::10.0.0.1]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b::8.8.8.8]/",
    "http://[64:ff9b:1::1]/",
    "http://[64:ff9b:1:ffff::10.0.0.1]/",
    "http://[64:ff9b:0:1::1]/",
    "http://[100::1]/",
    "http://[100::ffff:ffff:ffff:ffff]/",
    "http://[100:0:0:1::1]/",
    "http://[2001::1]/",
    "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
    "http://[2001:2::1]/",
    "http://[2001:10::1]/",
    "http://[2001:20::1]/",
    "http://[2001:1::1]/",
    "http://[2001:1ff:ffff::1]/",
    "http://[2001:db8::1]/",
    "http://[2001:db8:ffff:ffff::1]/",
    "http://[2001:0db8:0:0:0:0:0:1]/",
    "http://[3fff::1]/",
    "http://[3fff:fff::1]/",
    "http://[2002::1]/",
    "http://[2002:7f00:1::]/",
    "http://[2002:7f00:1::1]/",
    "http://[2002:a00:1::1]/",
    "http://[2002:a9fe:a9fe::1]/",
    "http://[2002:c0a8:101::1]/",
    "http://[2002:808:808::1]/",
    "http://[fc00::1]/",
    "http://[fd00::1]/",
    "http://[fd00:ec2::254]/",
    "http://[fd12:3456:789a:1::1]/",
    "http://[fdff:ffff::1]/",
    "http://[fd20:ce::254]/",
    "http://[fe80::1]/",
    "http://[fe80::a9fe:a9fe]/",
    "http://[febf::1]/",
    "http://[fec0::1]/",
    "http://[feff::1]/",
    "http://[fe00::1]/",
    "http://[ff00::1]/",
    "http://[ff01::1]/",
    "http://[ff02::1]/",
    "http://[ff02::fb]/",
    "http://[ff05::2]/",
    "http://[ff0e::1]/",
    "http://[4000::1]/",
    "http://[5f00::1]/",
    "http://[8000::1]/",
    "http://[1fff::1]/",
    "http://[200::1]/",
    "http://[400::1]/",
    "http://[e000::1]/",
    "http://[f000::1]/",
    "http://user:pass@127.0.0.1/",
    "http://example.com@127.0.0.1/",
    "http://example.com%40@10.0.0.1/",
    "http:\\\\127.0.0.1\\",
    "http:/127.0.0.1/",
    "http:127.0.0.1/",
    "http:///127.0.0.1/",
    "https://127.0.0.1:443/",
    "https://[::1]/",
    "https://0x7f.1/",
    "http://127.0.0.1#@example.com/",
    "http://127.0.0.1?@example.com/",
    "http://127.0.0.1\\@example.com/",
];

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
    assert!(FORBIDDEN.len() >= 150, "{}", FORBIDDEN.len());
    let passed: Vec<_> = FORBIDDEN
        .iter()
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
