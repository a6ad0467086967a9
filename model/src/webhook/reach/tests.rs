//! A corpus of addresses, in every form that somebody has got through a guard with.

use super::*;
use ipnet::IpNet;

use Kind::*;

type Never = bool;

const fn never(kind: Kind) -> Option<(Kind, Never)> {
    Some((kind, true))
}

const fn private(kind: Kind) -> Option<(Kind, Never)> {
    Some((kind, false))
}

/// With the kind of address that each is, and whether nobody can allow it; none where it is public. First and last of each
/// range, and what stands beside it where that is public.
const ADDRESSES: &[(&str, Option<(Kind, Never)>)] = &[
    ("0.0.0.0", never(ThisHost)),
    ("0.255.255.255", never(ThisHost)),
    ("1.0.0.0", None),
    ("1.1.1.1", None),
    ("9.255.255.255", None),
    ("10.0.0.0", private(Private)),
    ("10.255.255.255", private(Private)),
    ("11.0.0.0", None),
    ("100.63.255.255", None),
    ("100.64.0.0", private(Shared)),
    ("100.100.100.200", private(Metadata)),
    ("100.127.255.255", private(Shared)),
    ("100.128.0.0", None),
    ("126.255.255.255", None),
    ("127.0.0.0", private(Loopback)),
    ("127.0.0.1", private(Loopback)),
    ("127.255.255.255", private(Loopback)),
    ("128.0.0.0", None),
    ("168.63.129.16", private(Metadata)),
    ("168.63.129.17", None),
    ("169.253.255.255", None),
    ("169.254.0.0", private(LinkLocal)),
    ("169.254.169.254", private(Metadata)),
    ("169.254.170.2", private(Metadata)),
    ("169.254.170.23", private(Metadata)),
    ("169.254.255.255", private(LinkLocal)),
    ("169.255.0.0", None),
    ("172.15.255.255", None),
    ("172.16.0.0", private(Private)),
    ("172.31.255.255", private(Private)),
    ("172.32.0.0", None),
    ("191.255.255.255", None),
    ("192.0.0.0", private(Protocol)),
    ("192.0.0.170", private(Protocol)),
    ("192.0.0.192", private(Metadata)),
    ("192.0.0.255", private(Protocol)),
    ("192.0.1.0", None),
    ("192.0.2.0", private(Documentation)),
    ("192.0.2.255", private(Documentation)),
    ("192.0.3.0", None),
    ("192.31.196.1", private(Protocol)),
    ("192.52.193.1", private(Protocol)),
    ("192.88.99.1", never(Tunnel)),
    ("192.167.255.255", None),
    ("192.168.0.0", private(Private)),
    ("192.168.255.255", private(Private)),
    ("192.169.0.0", None),
    ("192.175.48.1", private(Protocol)),
    ("198.17.255.255", None),
    ("198.18.0.0", private(Benchmarking)),
    ("198.19.255.255", private(Benchmarking)),
    ("198.20.0.0", None),
    ("198.51.100.7", private(Documentation)),
    ("203.0.113.7", private(Documentation)),
    ("223.255.255.255", None),
    ("224.0.0.0", never(Multicast)),
    ("239.255.255.255", never(Multicast)),
    ("240.0.0.0", never(Reserved)),
    ("255.255.255.254", never(Reserved)),
    ("255.255.255.255", never(Broadcast)),
    ("::", never(ThisHost)),
    ("::1", private(Loopback)),
    ("::2", never(Tunnel)),
    ("::7f00:1", never(Tunnel)),
    ("::8.8.8.8", never(Tunnel)),
    ("::ffff:8.8.8.8", None),
    ("::ffff:127.0.0.1", private(Loopback)),
    ("::ffff:10.1.2.3", private(Private)),
    ("::ffff:169.254.169.254", private(Metadata)),
    ("::ffff:0:127.0.0.1", never(Reserved)),
    ("64:ff9b::8.8.8.8", None),
    ("64:ff9b::127.0.0.1", private(Loopback)),
    ("64:ff9b::10.1.2.3", private(Private)),
    ("64:ff9b::169.254.169.254", private(Metadata)),
    ("64:ff9b::0.0.0.0", never(ThisHost)),
    ("64:ff9b::255.255.255.255", never(Broadcast)),
    ("64:ff9b:0:0:0:1:808:808", never(Reserved)),
    ("64:ff9b:1::8.8.8.8", private(LocalTranslation)),
    ("64:ff9b:1:ffff:ffff:ffff:ffff:ffff", private(LocalTranslation)),
    ("64:ff9b:2::1", never(Reserved)),
    ("100::1", never(Reserved)),
    ("100:0:0:1::1", never(Reserved)),
    ("1fff::1", never(Reserved)),
    ("2000::1", None),
    ("2001::1", never(Tunnel)),
    ("2001:0:4136:e378:8000:63bf:3fff:fdd2", never(Tunnel)),
    ("2001:1::1", private(Protocol)),
    ("2001:2::1", private(Benchmarking)),
    ("2001:3::1", private(Protocol)),
    ("2001:10::1", private(Protocol)),
    ("2001:20::1", private(Protocol)),
    ("2001:1ff::1", private(Protocol)),
    ("2001:200::1", None),
    ("2001:db8::1", private(Documentation)),
    ("2001:4860:4860::8888", None),
    ("2002:7f00:1::", never(Tunnel)),
    ("2002:808:808::1", never(Tunnel)),
    ("2606:4700::1111", None),
    ("2620:4f:8000::1", private(Protocol)),
    ("3ffe::1", None),
    ("3fff::1", private(Documentation)),
    ("3fff:0fff::1", private(Documentation)),
    ("3fff:1000::1", None),
    ("4000::1", never(Reserved)),
    ("5f00::1", never(Reserved)),
    ("fbff::1", never(Reserved)),
    ("fc00::1", private(UniqueLocal)),
    ("fd00:ec2::254", private(Metadata)),
    ("fd00:ec2::23", private(Metadata)),
    ("fd20:ce::254", private(Metadata)),
    ("fdff::1", private(UniqueLocal)),
    ("fe00::1", never(Reserved)),
    ("fe80::1", private(LinkLocal)),
    ("febf::1", private(LinkLocal)),
    ("fec0::1", private(UniqueLocal)),
    ("ff02::1", never(Multicast)),
    ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", never(Multicast)),
];

const FORMS: &[(&str, &str)] = &[
    ("https://hooks.example", "ok"),
    ("https://HOOKS.example:443/A?b=c%20d", "ok"),
    ("https://hooks.example/@me", "ok"),
    ("https://hooks.example/a?to=b@c", "ok"),
    ("https://hooks.example:8443/", "ok"),
    ("https://hooks.example:65535/", "ok"),
    ("http://hooks.example:80/", "ok"),
    ("https://bücher.example/", "ok"),
    ("", "scheme"),
    ("hooks.example", "scheme"),
    ("//hooks.example/", "scheme"),
    ("ftp://hooks.example/", "scheme"),
    ("file:///etc/passwd", "scheme"),
    ("gopher://hooks.example/", "scheme"),
    ("https:hooks.example", "scheme"),
    ("https:/hooks.example", "scheme"),
    ("HTTPS://hooks.example", "scheme"),
    ("https://", "form"),
    ("https:///hooks.example", "form"),
    ("https://?a", "form"),
    ("https://\\hooks.example/", "form"),
    ("https://hooks.example\\@127.0.0.1/", "form"),
    (" https://hooks.example", "form"),
    ("https://hooks.example/a b", "form"),
    ("https://hooks.example\n.evil/", "form"),
    ("https://hooks.exam\tple/", "form"),
    ("https://hooks.example/\r\nX-Evil: 1", "form"),
    ("https://127.0.0.1%00.example/", "form"),
    ("https://127.0.0.1%23.example/", "form"),
    ("https://[::1/", "form"),
    ("https://[fe80::1%25eth0]/", "form"),
    ("https://[fe80::1%eth0]/", "form"),
    ("https://1.2.3.4.5/", "form"),
    ("https://256.0.0.1/", "form"),
    ("https://0x100000000/", "form"),
    ("https://08.0.0.1/", "form"),
    ("https://a..example:x/", "form"),
    ("https://user@hooks.example/", "user"),
    ("https://user:password@hooks.example/", "user"),
    ("https://:@hooks.example/", "user"),
    ("https://@hooks.example/", "user"),
    ("https://hooks.example@127.0.0.1/", "user"),
    ("https://127.0.0.1@hooks.example/", "user"),
    ("https://hooks.example/#", "fragment"),
    ("https://hooks.example/#a", "fragment"),
    ("https://hooks.example./", "dot"),
    ("https://localhost./", "dot"),
    ("https://hooks.example:0/", "port"),
    ("https://hooks.example:22/", "port"),
    ("https://hooks.example:25/", "port"),
    ("https://hooks.example:587/", "port"),
    ("https://hooks.example:1023/", "port"),
    ("https://hooks.example:6000/", "port"),
    ("https://hooks.example:6667/", "port"),
    ("https://hooks.example:65536/", "form"),
];

fn reach(allow: &[&str]) -> Reach {
    Reach::new(allow.iter().map(|net| net.parse::<IpNet>().unwrap()).collect())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn nothing_that_is_not_public_is_reached() {
    let everything = reach(&["0.0.0.0/0", "::/0"]);
    for (text, expected) in ADDRESSES.iter().copied() {
        let judged = match reach(&[]).address(ip(text)) {
            Ok(allowed) => {
                assert_eq!(allowed, Allowed::Public, "{text}");
                None
            }
            Err(Forbidden::Private { kind, .. }) => Some((kind, false)),
            Err(Forbidden::Never { kind, .. }) => Some((kind, true)),
            Err(error @ Forbidden::Plain(_)) => panic!("{text}: {error}"),
        };
        assert_eq!(judged, expected, "{text}");
        // What nobody can allow stays forbidden where everything is listed, and metadata needs an entry of its own.
        let listed = everything.address(ip(text)).is_ok();
        let may = !matches!(expected, Some((_, true) | (Metadata, _)));
        let may = may && !text.starts_with("64:ff9b:1:ffff"); // leads to 255.255.255.255
        assert_eq!(listed, may, "{text}");
    }
}

#[test]
fn a_list_allows_what_it_names_and_nothing_beside_it() {
    for (list, address, expected) in [
        ("10.1.0.0/16", "10.1.2.3", true),
        ("10.1.0.0/16", "::ffff:10.1.2.3", true),
        ("10.1.0.0/16", "64:ff9b::10.1.2.3", true),
        ("10.1.0.0/16", "10.2.0.1", false),
        ("127.0.0.0/8", "127.0.0.1", true),
        ("127.0.0.0/8", "::1", false),
        ("::1/128", "::1", true),
        ("::1/128", "127.0.0.1", false),
        ("::ffff:127.0.0.0/104", "127.0.0.1", false),
        ("fd00::/8", "fd12::1", true),
        ("fd00::/8", "fd00:ec2::254", false),
        ("fd00:ec2::254/128", "fd00:ec2::254", true),
        ("169.254.0.0/16", "169.254.1.1", true),
        ("169.254.0.0/16", "169.254.169.254", false),
        ("169.254.169.254/31", "169.254.169.254", false),
        ("169.254.169.254/32", "169.254.169.254", true),
        ("0.0.0.0/8", "0.0.0.0", false),
        ("224.0.0.0/4", "224.0.0.1", false),
        // A network's own NAT64: what it leads to must be public, or listed as well. The length of the prefix says where
        // that stands.
        ("64:ff9b:1::/96", "64:ff9b:1::8.8.8.8", true),
        ("64:ff9b:1::/96", "64:ff9b:1::10.0.0.1", false),
        ("64:ff9b:1::/96", "64:ff9b:1::169.254.169.254", false),
        ("64:ff9b:1::/48", "64:ff9b:1:808:8:800::", true),
        ("64:ff9b:1::/48", "64:ff9b:1:a00:0:100::", false),
        ("64:ff9b:1:200::/56", "64:ff9b:1:208:8:808::", true),
        ("64:ff9b:1:200::/56", "64:ff9b:1:27f:0:1::", false),
        ("64:ff9b:1:2::/64", "64:ff9b:1:2:8:808:800:0", true),
        ("64:ff9b:1:2::/64", "64:ff9b:1:2:7f:0:100:0", false),
    ] {
        assert_eq!(reach(&[list]).address(ip(address)).is_ok(), expected, "{list} {address}");
    }
    let both = reach(&["64:ff9b:1::/96", "10.0.0.0/8"]);
    assert!(both.address(ip("64:ff9b:1::10.0.0.1")).is_ok());
}

#[test]
fn one_forbidden_address_forbids_its_name() {
    let to = Destination::parse("https://partner.example").unwrap();
    for (addresses, expected) in [
        (&["8.8.8.8", "2606:4700::1111"][..], true),
        (&["8.8.8.8", "10.0.0.1"], false),
        (&["10.0.0.1", "8.8.8.8"], false),
        (&["8.8.8.8", "::1"], false),
    ] {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| ip(text)).collect();
        assert_eq!(reach(&[]).addresses(&to, &addresses).is_ok(), expected, "{addresses:?}");
    }
}

/// However a number is written, it is one address. Browsers and clients read all of these.
#[test]
fn a_literal_host_is_judged_in_every_form_of_it() {
    let loopback = "127.0.0.1";
    for (url, address) in [
        ("https://127.0.0.1/", loopback),
        ("https://127.0.0.1:8443/hook?a=b", loopback),
        ("https://127.1/", loopback),
        ("https://127.0.1/", loopback),
        ("https://2130706433/", loopback),
        ("https://0x7f000001/", loopback),
        ("https://0x7f.1/", loopback),
        ("https://0x7F.0x0.0X0.0x1/", loopback),
        ("https://0177.0.0.1/", loopback),
        ("https://017700000001/", loopback),
        ("https://0177.0x0.1/", loopback),
        ("https://127.0.0.1./", loopback),
        ("https://%31%32%37.0.0.1/", loopback),
        ("https://127%2e0%2e0%2e1/", loopback),
        ("https://１２７.0.0.1/", loopback),
        ("https://①②⑦.⓪.⓪.①/", loopback),
        ("https://127。0。0。1/", loopback),
        ("https://[::1]/", "::1"),
        ("https://[0:0:0:0:0:0:0:1]:443/", "::1"),
        ("https://[::ffff:127.0.0.1]/", loopback),
        ("https://[::ffff:7f00:1]/", loopback),
        ("https://[::127.0.0.1]/", "::7f00:1"),
        ("https://[64:ff9b::127.0.0.1]/", "64:ff9b::7f00:1"),
        ("https://[2002:7f00:1::]/", "2002:7f00:1::"),
        ("https://[fe80::1]/", "fe80::1"),
        ("https://[::]/", "::"),
        ("https://0/", "0.0.0.0"),
        ("https://0.0.0.0/", "0.0.0.0"),
        ("https://169.254.169.254/latest/meta-data/", "169.254.169.254"),
        ("https://0xa9fea9fe/", "169.254.169.254"),
        ("https://2852039166/", "169.254.169.254"),
        ("https://0251.0376.0251.0376/", "169.254.169.254"),
        ("https://[::ffff:a9fe:a9fe]/", "169.254.169.254"),
        ("https://[fd00:ec2::254]/", "fd00:ec2::254"),
        ("https://10.0.0.5/", "10.0.0.5"),
        ("https://192.168.1.1/", "192.168.1.1"),
        ("https://[fd12:3456::1]/", "fd12:3456::1"),
    ] {
        match reach(&[]).judge(url) {
            Err(DestinationError::Forbidden(
                Forbidden::Private { address: found, .. } | Forbidden::Never { address: found, .. },
            )) => assert_eq!(found, ip(address), "{url}"),
            other => panic!("{url}: {other:?}"),
        }
    }
    for url in ["https://8.8.8.8/", "https://134744072/", "https://[2606:4700::1111]:8443/a"] {
        assert!(reach(&[]).judge(url).is_ok(), "{url}");
    }
}

#[test]
fn names_of_this_machine_are_private_without_asking_anybody() {
    for url in [
        "https://localhost/",
        "https://LOCALHOST:8443",
        "https://a.b.localhost/",
        "https://localhos%74/",
    ] {
        assert!(matches!(reach(&[]).judge(url), Err(DestinationError::Forbidden(_))), "{url}");
        assert!(reach(&["127.0.0.0/8"]).judge(url).is_ok(), "{url}");
        assert!(reach(&["::1/128"]).judge(url).is_ok(), "{url}");
    }
    for url in ["https://localhost.example/", "https://mylocalhost/"] {
        assert!(reach(&[]).judge(url).is_ok(), "{url}");
    }
}

#[test]
fn plain_http_goes_to_listed_addresses_only() {
    let lab = reach(&["10.0.0.0/8"]);
    assert!(lab.judge("http://10.0.0.5:8080/hook").is_ok());
    assert!(lab.judge("https://10.0.0.5/hook").is_ok());
    assert!(lab.judge("https://8.8.8.8/hook").is_ok());
    let plain = lab.judge("http://8.8.8.8/hook");
    assert_eq!(plain, Err(DestinationError::Forbidden(Forbidden::Plain(ip("8.8.8.8")))));
    // A name is judged when it was resolved.
    let to = lab.judge("http://hooks.example/").unwrap();
    assert!(lab.addresses(&to, &[ip("10.0.0.5")]).is_ok());
    assert_eq!(lab.addresses(&to, &[ip("8.8.8.8")]), Err(Forbidden::Plain(ip("8.8.8.8"))));
    assert!(lab.addresses(&to, &[ip("10.0.0.5"), ip("8.8.8.8")]).is_err());
}

#[test]
fn an_address_that_two_readers_could_read_apart_is_none() {
    let long = format!("https://a.example/{}", "a".repeat(2_048));
    for (url, expected) in FORMS.iter().copied().chain([(long.as_str(), "form")]) {
        let judged = match Destination::parse(url) {
            Ok(_) => "ok",
            Err(DestinationError::Form(_)) => "form",
            Err(DestinationError::Scheme) => "scheme",
            Err(DestinationError::User) => "user",
            Err(DestinationError::Fragment) => "fragment",
            Err(DestinationError::Dot) => "dot",
            Err(DestinationError::Port(_)) => "port",
            Err(DestinationError::Forbidden(_)) => "forbidden",
        };
        assert_eq!(judged, expected, "{url:?}");
    }
}

/// What is judged is what is requested: nothing reads the text a second time.
#[test]
fn the_request_has_the_host_that_was_judged() {
    for (url, uri, host, port) in [
        ("https://2130706433", "https://127.0.0.1/", Host::Address(ip("127.0.0.1")), 443),
        ("http://[0::1]:80/a", "http://[::1]/a", Host::Address(ip("::1")), 80),
        (
            "https://Bücher.Example:8443/ä?q=ü",
            "https://xn--bcher-kva.example:8443/%C3%A4?q=%C3%BC",
            Host::Name("xn--bcher-kva.example".into()),
            8443,
        ),
        ("https://a.example/b/../c", "https://a.example/c", Host::Name("a.example".into()), 443),
    ] {
        let destination = Destination::parse(url).unwrap();
        assert_eq!(destination.uri(), uri, "{url}");
        assert_eq!(destination.host(), &host, "{url}");
        assert_eq!(destination.port(), port, "{url}");
        assert_eq!(destination.is_tls(), url.starts_with("https"), "{url}");
        // It can be read again, as each connection does.
        assert_eq!(Destination::parse(&destination.uri().to_string()), Ok(destination));
    }
    let paged = Destination::parse("https://a.example/b?c=d").unwrap();
    let paged = paged.with_query(&[("since", "a b&c"), ("wait", "20")]).unwrap();
    assert_eq!(paged.uri(), "https://a.example/b?c=d&since=a+b%26c&wait=20");
}
