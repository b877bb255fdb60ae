//! An endpoint's addresses, and why they may not do.

use std::net::{IpAddr, Ipv6Addr};

use offload::MacAddr;
use smoltcp::wire::{IpAddress, IpCidr, Ipv6Address};

/// Addresses that one endpoint may be given. Its link-local IPv6 address comes on top.
const MAX_ADDRESSES: usize = 3;

/// The smallest MTU that IPv4 allows (RFC 791, 3.2).
const MIN_MTU_V4: u16 = 68;

/// The smallest MTU that IPv6 allows (RFC 8200, 5).
const MIN_MTU_V6: u16 = 1280;

/// Why an endpoint could not be made: the address, the reason and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The text is no address with a prefix length.
    #[error(
        "endpoint \"{0}\": no address with a prefix length; write one such as 192.0.2.1/24 or 2001:db8::1/64"
    )]
    NotCidr(String),
    /// The prefix is longer than the address.
    #[error("endpoint \"{cidr}\": the prefix length is out of range; it must be 1 to {max}")]
    Prefix {
        /// The text.
        cidr: String,
        /// The longest prefix of the IP version.
        max: u8,
    },
    /// No host can have this address.
    #[error("endpoint \"{cidr}\": {reason}; choose the address of a single host")]
    NotAHost {
        /// The text.
        cidr: String,
        /// What the address is.
        reason: &'static str,
    },
    /// Too many addresses.
    #[error("endpoint \"{cidrs}\": more than {MAX_ADDRESSES} addresses; make another endpoint for the rest")]
    TooMany {
        /// The text.
        cidrs: String,
    },
    /// The MTU is too small for the IP version.
    #[error("endpoint \"{cidrs}\": the MTU is {mtu}; it must be at least {min}")]
    Mtu {
        /// The text.
        cidrs: String,
        /// The MTU in octets.
        mtu: u16,
        /// The smallest that would do.
        min: u16,
    },
    /// The hardware address is a group's or all zeroes.
    #[error("endpoint: {0} is no hardware address of a single host; choose one such as 02:00:00:00:00:01")]
    Mac(MacAddr),
}

/// Reads one to three addresses, separated by commas, and adds a link-local one when there is an IPv6 address.
pub(super) fn parse(cidrs: &str, mac: MacAddr, mtu: u16) -> Result<Vec<IpCidr>, EndpointError> {
    if mac.is_multicast() || mac == MacAddr::default() {
        return Err(EndpointError::Mac(mac));
    }
    let mut addresses = cidrs
        .split(',')
        .map(|cidr| one(cidr.trim()))
        .collect::<Result<Vec<_>, _>>()?;
    if addresses.len() > MAX_ADDRESSES {
        return Err(EndpointError::TooMany {
            cidrs: cidrs.to_owned(),
        });
    }
    let has_v6 = addresses.iter().any(|cidr| matches!(cidr, IpCidr::Ipv6(_)));
    let min = if has_v6 { MIN_MTU_V6 } else { MIN_MTU_V4 };
    if mtu < min {
        return Err(EndpointError::Mtu {
            cidrs: cidrs.to_owned(),
            mtu,
            min,
        });
    }
    if has_v6 {
        let link_local = IpCidr::new(IpAddress::Ipv6(link_local(mac)), 64);
        if !addresses.contains(&link_local) {
            addresses.push(link_local);
        }
    }
    Ok(addresses)
}

fn one(cidr: &str) -> Result<IpCidr, EndpointError> {
    let not_cidr = || EndpointError::NotCidr(cidr.to_owned());
    let (address, prefix) = cidr.split_once('/').ok_or_else(not_cidr)?;
    let address: IpAddr = address.parse().map_err(|_| not_cidr())?;
    let prefix: u8 = prefix.parse().map_err(|_| not_cidr())?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    if !(1..=max).contains(&prefix) {
        return Err(EndpointError::Prefix {
            cidr: cidr.to_owned(),
            max,
        });
    }
    match unfit(address, prefix) {
        Some(reason) => Err(EndpointError::NotAHost {
            cidr: cidr.to_owned(),
            reason,
        }),
        None => Ok(IpCidr::new(address.into(), prefix)),
    }
}

/// What makes an address no host's.
fn unfit(address: IpAddr, prefix: u8) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("this is the unspecified address");
    }
    if address.is_loopback() {
        return Some("this is a loopback address");
    }
    if !IpAddress::from(address).is_unicast() {
        return Some("this is a group or broadcast address");
    }
    let IpAddr::V4(v4) = address else { return None };
    // RFC 3021: both addresses of a /31 are hosts.
    let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    match v4.to_bits() & host_bits {
        _ if prefix > 30 => None,
        0 => Some("this is the network's own address"),
        bits if bits == host_bits => Some("this is the network's broadcast address"),
        _ => None,
    }
}

/// The link-local address made from a hardware address (RFC 4291, 2.5.1 and appendix A).
fn link_local(mac: MacAddr) -> Ipv6Address {
    let [first, second, third, rest @ ..] = mac.0;
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xfe, 0x80]);
    octets[8..13].copy_from_slice(&[first ^ 2, second, third, 0xff, 0xfe]);
    octets[13..].copy_from_slice(&rest);
    Ipv6Addr::from(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0x5e, 0x10, 0, 1]);

    #[test]
    fn good_addresses_are_taken() {
        for text in [
            "192.0.2.1/24",
            "192.0.2.0/31",
            "192.0.2.7/32",
            "192.0.2.1/24, 198.51.100.1/24",
        ] {
            assert!(parse(text, MAC, 68).is_ok(), "{text}");
        }
        let with_v6 = parse("192.0.2.1/24,2001:db8::1/64", MAC, 1500).expect("two addresses");
        let texts: Vec<String> = with_v6.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["192.0.2.1/24", "2001:db8::1/64", "fe80::5eff:fe10:1/64"]);
        assert_eq!(
            parse("fe80::5eff:fe10:1/64", MAC, 1500).expect("its own").len(),
            1
        );
    }

    #[test]
    fn bad_ones_are_named_with_a_reason_and_a_remedy() {
        let cases = [
            ("", "no address with a prefix length; write one such as"),
            ("192.0.2.1", "no address with a prefix length"),
            ("192.0.2.1/x", "no address with a prefix length"),
            ("192.0.2/24", "no address with a prefix length"),
            ("192.0.2.1/33", "must be 1 to 32"),
            ("192.0.2.1/0", "must be 1 to 32"),
            ("2001:db8::1/129", "must be 1 to 128"),
            ("192.0.2.0/24", "network's own address; choose"),
            ("192.0.2.255/24", "broadcast address"),
            ("255.255.255.255/32", "broadcast address"),
            ("224.0.0.1/24", "group or broadcast"),
            ("ff02::1/64", "group or broadcast"),
            ("0.0.0.0/8", "unspecified"),
            ("127.0.0.1/8", "loopback"),
            (
                "192.0.2.1/24,192.0.2.2/24,192.0.2.3/24,192.0.2.4/24",
                "more than 3",
            ),
        ];
        for (text, expected) in cases {
            let message = parse(text, MAC, 1500).expect_err(text).to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn a_small_mtu_and_group_hardware_addresses_are_refused() {
        assert!(matches!(
            parse("192.0.2.1/24", MAC, 67),
            Err(EndpointError::Mtu { min: 68, .. })
        ));
        assert!(matches!(
            parse("2001:db8::1/64", MAC, 1279),
            Err(EndpointError::Mtu { min: 1280, .. })
        ));
        for mac in [
            MacAddr::BROADCAST,
            MacAddr::default(),
            MacAddr([1, 0, 0x5e, 0, 0, 1]),
        ] {
            assert_eq!(parse("192.0.2.1/24", mac, 1500), Err(EndpointError::Mac(mac)));
        }
    }
}
