//! What kinds of addresses there are: the IANA special-purpose registries for IPv4 and IPv6, multicast, reserved space, and
//! the addresses where clouds tell their secrets.
//! <https://www.iana.org/assignments/iana-ipv4-special-registry>, <https://www.iana.org/assignments/iana-ipv6-special-registry>

use ipnet::{Ipv4Net, Ipv6Net};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is that is not public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 0.0.0.0/8 and `::`: many systems take them for themselves.
    ThisHost,
    /// 127.0.0.0/8, `::1`.
    Loopback,
    /// RFC 1918.
    Private,
    /// 100.64.0.0/10 (RFC 6598).
    Shared,
    /// 169.254.0.0/16, fe80::/10.
    LinkLocal,
    /// Where a cloud tells machines about themselves.
    Metadata,
    /// 192.0.0.0/24, 2001::/23 and the like: for protocols.
    Protocol,
    /// Examples in texts.
    Documentation,
    /// 198.18.0.0/15, 2001:2::/48.
    Benchmarking,
    /// 224.0.0.0/4, ff00::/8.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// 240.0.0.0/4, and what of IPv6 is given to nobody.
    Reserved,
    /// fc00::/7 (RFC 4193), and fec0::/10, which was before.
    UniqueLocal,
    /// 64:ff9b:1::/48: the NAT64 of a network (RFC 8215).
    LocalTranslation,
    /// IPv4 addresses in IPv6 by ways that are no more: `::a.b.c.d`, 6to4, Teredo.
    Tunnel,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ThisHost => "an address of no host",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::Shared => "an address of carriers' shared space",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud's metadata service",
            Self::Protocol => "an address for protocols",
            Self::Documentation => "an address for documentation",
            Self::Benchmarking => "an address for benchmarks",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
            Self::Reserved => "a reserved address",
            Self::UniqueLocal => "a unique local address",
            Self::LocalTranslation => "an address of a local NAT64",
            Self::Tunnel => "an IPv4 address in an IPv6 tunnel",
        })
    }
}

/// What follows from what an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    Public,
    /// For who lists it.
    Private(Kind),
    /// For who lists this very address.
    Single(Kind),
    /// For nobody.
    Never(Kind),
    /// It leads to this one (RFC 6052).
    Translated(Ipv4Addr),
}

/// Of all ranges that an address is in, the first one counts.
pub(super) fn judge(address: IpAddr) -> Judged {
    match address {
        IpAddr::V4(address) => {
            let found = V4.iter().find(|(net, _)| net.contains(&address));
            found.map_or(Judged::Public, |(_, judged)| *judged)
        }
        IpAddr::V6(address) if TRANSLATION.contains(&address) => {
            Judged::Translated(embedded(address, TRANSLATION.prefix_len()))
        }
        IpAddr::V6(address) => {
            let found = V6.iter().find(|(net, _)| net.contains(&address));
            found.map_or(Judged::Never(Kind::Reserved), |(_, judged)| *judged)
        }
    }
}

/// The IPv4 address in an IPv6 address behind a prefix of this length (RFC 6052 §2.2); in its last 32 bits for a length that
/// the RFC doesn't know. Bits 64 to 71 are passed over.
pub(super) fn embedded(address: Ipv6Addr, prefix: u8) -> Ipv4Addr {
    let [_, _, _, _, a, b, c, d, _, e, f, g, h, i, j, k] = address.octets();
    match prefix {
        32 => Ipv4Addr::new(a, b, c, d),
        40 => Ipv4Addr::new(b, c, d, e),
        48 => Ipv4Addr::new(c, d, e, f),
        56 => Ipv4Addr::new(d, e, f, g),
        64 => Ipv4Addr::new(e, f, g, h),
        _ => Ipv4Addr::new(h, i, j, k),
    }
}

/// The NAT64 prefix that everybody knows (RFC 6052 §2.1).
const TRANSLATION: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);

const V4: &[(Ipv4Net, Judged)] = &[
    // AWS, Azure, Google, Oracle, DigitalOcean and others; ECS tasks; EKS pods; Alibaba; Oracle's old one; Azure's host,
    // which looks public.
    (v4([169, 254, 169, 254], 32), Judged::Single(Kind::Metadata)),
    (v4([169, 254, 170, 2], 32), Judged::Single(Kind::Metadata)),
    (v4([169, 254, 170, 23], 32), Judged::Single(Kind::Metadata)),
    (v4([100, 100, 100, 200], 32), Judged::Single(Kind::Metadata)),
    (v4([192, 0, 0, 192], 32), Judged::Single(Kind::Metadata)),
    (v4([168, 63, 129, 16], 32), Judged::Single(Kind::Metadata)),
    (v4([0, 0, 0, 0], 8), Judged::Never(Kind::ThisHost)),
    (v4([10, 0, 0, 0], 8), Judged::Private(Kind::Private)),
    (v4([100, 64, 0, 0], 10), Judged::Private(Kind::Shared)),
    (v4([127, 0, 0, 0], 8), Judged::Private(Kind::Loopback)),
    (v4([169, 254, 0, 0], 16), Judged::Private(Kind::LinkLocal)),
    (v4([172, 16, 0, 0], 12), Judged::Private(Kind::Private)),
    (v4([192, 0, 0, 0], 24), Judged::Private(Kind::Protocol)),
    (v4([192, 0, 2, 0], 24), Judged::Private(Kind::Documentation)),
    (v4([192, 31, 196, 0], 24), Judged::Private(Kind::Protocol)),
    (v4([192, 52, 193, 0], 24), Judged::Private(Kind::Protocol)),
    (v4([192, 88, 99, 0], 24), Judged::Never(Kind::Tunnel)),
    (v4([192, 168, 0, 0], 16), Judged::Private(Kind::Private)),
    (v4([192, 175, 48, 0], 24), Judged::Private(Kind::Protocol)),
    (v4([198, 18, 0, 0], 15), Judged::Private(Kind::Benchmarking)),
    (v4([198, 51, 100, 0], 24), Judged::Private(Kind::Documentation)),
    (v4([203, 0, 113, 0], 24), Judged::Private(Kind::Documentation)),
    (v4([224, 0, 0, 0], 4), Judged::Never(Kind::Multicast)),
    (v4([255, 255, 255, 255], 32), Judged::Never(Kind::Broadcast)),
    (v4([240, 0, 0, 0], 4), Judged::Never(Kind::Reserved)),
];

/// IPv4-mapped addresses never get here: they are IPv4 addresses to the kernel, and are judged as such.
const V6: &[(Ipv6Net, Judged)] = &[
    // AWS: metadata, and pods' credentials; Google.
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), Judged::Single(Kind::Metadata)),
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128), Judged::Single(Kind::Metadata)),
    (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), Judged::Single(Kind::Metadata)),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), Judged::Never(Kind::ThisHost)),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), Judged::Private(Kind::Loopback)),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 96), Judged::Never(Kind::Tunnel)),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), Judged::Private(Kind::LocalTranslation)),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), Judged::Never(Kind::Tunnel)),
    (v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), Judged::Private(Kind::Benchmarking)),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), Judged::Private(Kind::Protocol)),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), Judged::Private(Kind::Documentation)),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), Judged::Never(Kind::Tunnel)),
    (v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48), Judged::Private(Kind::Protocol)),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), Judged::Private(Kind::Documentation)),
    (v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3), Judged::Public),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), Judged::Private(Kind::UniqueLocal)),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), Judged::Private(Kind::LinkLocal)),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), Judged::Private(Kind::UniqueLocal)),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), Judged::Never(Kind::Multicast)),
];

const fn v4(octets: [u8; 4], prefix: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(segments: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}
