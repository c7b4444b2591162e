//! Which addresses a channel may be connected to.
//!
//! A name is resolved once, what it stands for is looked at, and exactly that is connected to. A name that stands for something else a
//! moment later changes nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use supernode_types::channel::PrivateAddresses;

const RESOLVE_LIMIT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried; more say the same.
const MOST_ADDRESSES: usize = 4;

/// The addresses that `host` stands for and that may be connected to.
pub(crate) async fn resolve(
    host: &str,
    port: u16,
    private: PrivateAddresses,
) -> Result<Vec<SocketAddr>, String> {
    let found: Vec<SocketAddr> = match literal(host) {
        Some(address) => vec![SocketAddr::new(address, port)],
        None => tokio::time::timeout(RESOLVE_LIMIT, tokio::net::lookup_host((host, port)))
            .await
            .map_err(|_| {
                format!(
                    "{host} could not be resolved in {} s",
                    RESOLVE_LIMIT.as_secs()
                )
            })?
            .map_err(|error| format!("{host} cannot be resolved: {error}"))?
            .collect(),
    };
    allowed(host, found, private)
}

fn allowed(
    host: &str,
    found: Vec<SocketAddr>,
    private: PrivateAddresses,
) -> Result<Vec<SocketAddr>, String> {
    let first = found.first().copied();
    let mut may: Vec<SocketAddr> = found
        .into_iter()
        .filter(|address| private == PrivateAddresses::Allowed || is_public(address.ip()))
        .collect();
    may.truncate(MOST_ADDRESSES);
    match (may.is_empty(), first) {
        (false, _) => Ok(may),
        (true, Some(address)) => Err(refusal(host, address.ip())),
        (true, None) => Err(format!("{host} stands for no address")),
    }
}

/// Why an address is not connected to.
pub(crate) fn refusal(host: &str, address: IpAddr) -> String {
    format!(
        "{host} is {address}, an address of this machine or of a private network; an admin can make a channel that may lead there (--allow-private-addresses)"
    )
}

/// The address that a host in an address bar is, if it is none of a name.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

/// Whether an address belongs to the Internet: not to this machine, a private network or a link, and not reserved.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let refused = a == 0
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        || a >= 240
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && b & 0xfe == 18);
    !refused
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // Translated to IPv4 on the way (RFC 6052), and 6to4 (RFC 3056): what counts is the address inside.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        // Teredo, benchmarks, ORCHID, documentation.
        [0x2001, 0..0x200 | 0xdb8, ..] | [0x3fff, 0..0x1000, ..] => false,
        // Everything else that is global unicast. IPv4-mapped, loopback, unique local, link-local and multicast addresses are not.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(text: &str) -> bool {
        is_public(text.parse().expect(text))
    }

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for text in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.169.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2400:3200::1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
            "2001:4860:4860::8888",
        ] {
            assert!(public(text), "{text}");
        }
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:1.1.1.1",
            "::127.0.0.1",
            "fc00::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:a00:1::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "100::1",
        ] {
            assert!(!public(text), "{text}");
        }
    }

    #[test]
    fn of_a_name_that_stands_for_both_only_the_public_address_is_used() {
        let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
            texts
                .iter()
                .map(|text| text.parse().expect("an address"))
                .collect()
        };
        let mixed = addresses(&["10.0.0.1:443", "1.1.1.1:443"]);
        assert_eq!(
            allowed("a", mixed.clone(), PrivateAddresses::Refused),
            Ok(addresses(&["1.1.1.1:443"]))
        );
        assert_eq!(
            allowed("a", mixed.clone(), PrivateAddresses::Allowed),
            Ok(mixed)
        );
        let private = allowed("a", addresses(&["10.0.0.1:1"]), PrivateAddresses::Refused);
        assert!(private.is_err_and(
            |why| why.contains("a is 10.0.0.1") && why.contains("--allow-private-addresses")
        ));
        assert!(allowed("a", Vec::new(), PrivateAddresses::Allowed).is_err());
    }
}
