//! Addresses at which clouds serve their own hosts: metadata with credentials, DNS, time, health checks. They mean another
//! host in each network, so a site that had one as a prefix would answer every other site's questions for credentials.
//! Controllers refuse them as prefixes. Edges never route them into the mesh, and never accept packets from or to them, also
//! where a larger prefix contains them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A range that a cloud serves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    pub net: IpNet,
    /// For messages: `Alibaba Cloud's metadata service`.
    pub what: &'static str,
}

/// Sorted by address. None contains another.
pub const SERVICE_ADDRESSES: &[Service] = &[
    // help.aliyun.com "Private DNS": 100.100.2.136 and 100.100.2.138 answer in every VPC.
    v4([100, 100, 2, 136], 30, "Alibaba Cloud's DNS"),
    // help.aliyun.com "View instance metadata".
    v4([100, 100, 100, 200], 32, "Alibaba Cloud's metadata service"),
    // learn.microsoft.com "What is IP address 168.63.129.16?": DHCP, DNS, health probes, the agent's server.
    v4([168, 63, 129, 16], 32, "Azure's platform services"),
    // RFC 3927. Metadata is at 169.254.169.254 (AWS, Azure, GCP, Oracle, OpenStack, Huawei and others), 169.254.0.23 (Tencent),
    // 169.254.42.42 (Scaleway), 169.254.170.2 and .23 (AWS ECS and EKS); DNS and time at 169.254.169.253 and .123 (AWS).
    v4([169, 254, 0, 0], 16, "link-local, where clouds serve their metadata"),
    // cloud.tencent.com "Private network DNS".
    v4([183, 60, 82, 98], 32, "Tencent Cloud's DNS"),
    v4([183, 60, 83, 19], 32, "Tencent Cloud's DNS"),
    // docs.oracle.com "Retrieving instance metadata" (Compute Classic). RFC 7723 and RFC 8155 have 192.0.0.9 and .10 beside it.
    v4([192, 0, 0, 192], 32, "Oracle Cloud's metadata service"),
    // scaleway.com "Metadata API".
    v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128, "Scaleway's metadata service"),
    // cloud-init DataSourceOracle.py.
    v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128, "Oracle Cloud's metadata service"),
    // docs.aws.amazon.com: metadata at ::254, DNS at ::253, time at ::123, EKS Pod Identity at ::23.
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32, "AWS's metadata, DNS and time services"),
    // techdocs.akamai.com "Metadata service" (Linode).
    v6([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1], 128, "Akamai's metadata service"),
    // cloud.google.com "About VM metadata": on IPv6-only instances.
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, "Google Cloud's metadata service"),
    // docs.openstack.org "Metadata service": fe80::a9fe:a9fe.
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local, where clouds serve their metadata"),
];

/// Ranges in which a cloud has services of its own at addresses that it does not list one by one, or that it changes. Sites
/// of other clouds may use them, so they are allowed with a warning, and edges route them.
pub const CLOUD_RANGES: &[Service] = &[
    // help.aliyun.com: "100.64.0.0/10 is reserved for Alibaba Cloud services" (object storage, mirrors, time at 100.100.61.88).
    v4(
        [100, 64, 0, 0],
        10,
        "used by Alibaba Cloud for its internal services, and by carriers for NAT (RFC 6598)",
    ),
    // cloud.ibm.com "Service endpoints".
    v4([161, 26, 0, 0], 16, "used by IBM Cloud for its internal services"),
    v4([166, 8, 0, 0], 14, "used by IBM Cloud for its internal services"),
];

/// The service that has the address.
pub fn service_of(address: IpAddr) -> Option<&'static Service> {
    let address = address.to_canonical();
    SERVICE_ADDRESSES.iter().find(|service| service.net.contains(&address))
}

/// The service that has all addresses of a network.
pub fn service_around(net: IpNet) -> Option<&'static Service> {
    SERVICE_ADDRESSES.iter().find(|service| service.net.contains(&net))
}

/// The services that have a part of a network.
pub fn services_inside(net: IpNet) -> impl Iterator<Item = &'static Service> {
    let inside = move |service: &&Service| net.contains(&service.net) && net != service.net;
    SERVICE_ADDRESSES.iter().filter(inside)
}

/// Whether any address of a network is a service's.
pub fn contains_service(net: IpNet) -> bool {
    service_around(net).is_some() || services_inside(net).next().is_some()
}

const fn v4([a, b, c, d]: [u8; 4], len: u8, what: &'static str) -> Service {
    Service { net: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len)), what }
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], len: u8, what: &'static str) -> Service {
    let address = Ipv6Addr::new(a, b, c, d, e, f, g, h);
    Service { net: IpNet::V6(Ipv6Net::new_assert(address, len)), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn every_service_is_canonical_and_apart_from_the_others() {
        for (index, service) in SERVICE_ADDRESSES.iter().enumerate() {
            assert_eq!(service.net, service.net.trunc());
            for other in &SERVICE_ADDRESSES[..index] {
                assert!(!other.net.contains(&service.net) && !service.net.contains(&other.net));
            }
        }
    }

    #[test]
    fn a_service_is_found_by_an_address_a_part_of_it_and_what_contains_it() {
        for (address, what) in [
            ("100.100.100.200", "Alibaba"),
            ("::ffff:100.100.100.200", "Alibaba"),
            ("100.100.2.138", "Alibaba"),
            ("168.63.129.16", "Azure"),
            ("169.254.169.254", "link-local"),
            ("169.254.0.23", "link-local"),
            ("fd00:ec2::254", "AWS"),
            ("fd20:ce::254", "Google"),
            ("192.0.0.192", "Oracle"),
            ("fd00:c1::a9fe:a9fe", "Oracle"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let found = service_of(address).unwrap_or_else(|| panic!("{address}"));
            assert!(found.what.starts_with(what), "{address}: {found:?}");
            assert!(contains_service(IpNet::from(address.to_canonical())));
        }
        for apart in ["10.0.0.0/8", "100.100.100.0/25", "fd00::/64", "fd20:ce:1::/48"] {
            assert!(!contains_service(net(apart)), "{apart}");
        }
        assert_eq!(service_around(net("fd00:ec2:0:1::/64")).unwrap().net, net("fd00:ec2::/32"));
        assert_eq!(service_around(net("100.100.0.0/16")), None);
        let inside: Vec<_> = services_inside(net("100.64.0.0/10")).map(|found| found.net).collect();
        assert_eq!(inside, [net("100.100.2.136/30"), net("100.100.100.200/32")]);
        assert_eq!(services_inside(net("168.63.129.16/32")).count(), 0);
    }
}
