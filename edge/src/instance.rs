//! An instance and what its name determines on the host.
//!
//! One host can run edges of several namespaces. Everything that they could collide on is derived from
//! the instance's name alone, so that `down` finds what a killed process has left.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The name of an instance, if none is given.
pub const DEFAULT: &str = "cframe0";

/// The default mark of underlay packets, under [`MARK_MASK`]: bits that no other program uses
/// (doc/decisions/0017-packet-mark.md). All instances share it, because a rule of one must not match the
/// packets of another.
pub const MARK: u32 = 0x1040;
/// The other bits of a packet's mark are left to other programs on the host.
pub const MARK_MASK: u32 = 0x1040;

const TABLES: u32 = 0x00cf_0000;

/// The kernel's limit for a device's name (`IFNAMSIZ` with its NUL, linux/if.h).
const MAX_LEN: usize = 15;

/// The name of an instance, which is also the name of its TUN device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance(String);

/// The mark of the edge's own packets (`SO_MARK`, socket(7)), and the bits of it that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mark {
    pub value: u32,
    pub mask: u32,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a mark: use VALUE/MASK, such as 0x1040/0x1040, where VALUE is not 0 and inside MASK"
)]
pub struct MarkError(String);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a name for an instance: use 1 to 15 of a-z, 0-9 and '-', starting with a letter, \
     and not a name of the kernel's (all, default, lo)"
)]
pub struct InstanceError(String);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The data directory: credentials, snapshot and keys; mode 0700.
    pub data: PathBuf,
    /// The local socket of `status` and `doctor`.
    pub socket: PathBuf,
    /// The configuration.
    pub config: PathBuf,
}

impl Instance {
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The routing table's number: above 255, where nobody numbers tables by hand.
    pub fn table(&self) -> u32 {
        TABLES | u32::from(self.hash())
    }

    /// All paths are below `data_dir` if it is given; otherwise they are the system's.
    pub fn paths(&self, data_dir: Option<&Path>) -> Paths {
        match data_dir {
            Some(dir) => Paths {
                data: dir.to_owned(),
                socket: dir.join("edge.sock"),
                config: dir.join("edge.toml"),
            },
            None => Paths {
                data: Path::new("/var/lib/cframe").join(&self.0),
                socket: Path::new("/run/cframe").join(format!("{}.sock", self.0)),
                config: Path::new("/etc/cframe").join(match self.0.as_str() {
                    DEFAULT => "edge.toml".to_owned(),
                    other => format!("edge-{other}.toml"),
                }),
            },
        }
    }

    /// FNV-1a, folded to 16 bits. It must not change between releases: it is in the numbers of tables
    /// and marks that a running kernel has.
    fn hash(&self) -> u16 {
        let hash = self
            .0
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let [a, b, c, d] = hash.to_be_bytes();
        u16::from_be_bytes([a ^ c, b ^ d])
    }
}

impl Default for Mark {
    fn default() -> Self {
        Self { value: MARK, mask: MARK_MASK }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

impl From<Mark> for String {
    fn from(mark: Mark) -> Self {
        mark.to_string()
    }
}

impl TryFrom<String> for Mark {
    type Error = MarkError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for Mark {
    type Err = MarkError;

    /// As `ip rule` and `nft` read it: without a mask, all bits count.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        };
        let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
        match (number(value), number(mask)) {
            (Some(value), Some(mask)) if value != 0 && value & !mask == 0 => {
                Ok(Self { value, mask })
            }
            _ => Err(MarkError(text.to_owned())),
        }
    }
}

impl FromStr for Instance {
    type Err = InstanceError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fine = name.len() <= MAX_LEN
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.bytes().all(allowed)
            && !["all", "default", "lo"].contains(&name);
        match fine {
            true => Ok(Self(name.to_owned())),
            false => Err(InstanceError(name.to_owned())),
        }
    }
}

impl Default for Instance {
    fn default() -> Self {
        Self(DEFAULT.to_owned())
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_determines_its_table_for_good() {
        let instance = Instance::default();
        assert_eq!(instance.name(), "cframe0");
        assert_eq!(instance.table(), 0x00cf_0000 | u32::from(instance.hash()));
        // With another hash, tables of running hosts would never be removed.
        assert_eq!(instance.hash(), 0x216c);
    }

    #[test]
    fn instances_share_nothing_but_the_mark() {
        let names = ["cframe0", "cframe1", "prod", "staging", "prod-b"];
        let instances: Vec<Instance> = names.iter().map(|name| name.parse().unwrap()).collect();
        for (i, a) in instances.iter().enumerate() {
            for b in &instances[i + 1..] {
                assert_ne!(a.table(), b.table(), "{a} {b}");
                assert_ne!(a.paths(None), b.paths(None));
            }
        }
    }

    #[test]
    fn no_other_programs_rule_matches_the_mark_and_the_mark_matches_no_other_packets() {
        // (mark, mask) of kube-proxy, Cilium, Calico, Tailscale, AWS VPC CNI, CNI portmap and netavark,
        // Weave, OpenShift, and of programs that mark with all bits: wg-quick, Mullvad, NordVPN, Istio,
        // NetBird, firewalld's and docker's first numbers, OVN-Kubernetes, and small numbers by hand.
        let masked: [(u32, u32); 10] = [
            (0x4000, 0x4000),
            (0x8000, 0x8000),
            (0x0f00, 0x0f00),
            (0xffff_0000, 0xffff_0000),
            (0x4_0000, 0xff_0000),
            (0x8_0000, 0xff_0000),
            (0x80, 0x80),
            (0x2000, 0x2000),
            (0x2_0000, 0x2_0000),
            (0x1, 0x1),
        ];
        for (mark, mask) in masked {
            assert_eq!(MARK & mask, 0, "{mark:#x}/{mask:#x}");
        }
        let exact: [u32; 10] = [
            0xca6c,
            0x6d6f_6c65,
            0xe1f1,
            0x539,
            0x1_bd00,
            0x1_bd10,
            0x64,
            0x100,
            0x0017_45ec,
            0xff,
        ];
        for mark in exact.into_iter().chain(0..=10) {
            assert_ne!(mark & MARK_MASK, MARK, "{mark:#x}");
        }
    }

    #[test]
    fn a_mark_is_read_as_ip_and_nft_write_it() {
        let mark = |text: &str| text.parse::<Mark>();
        assert_eq!(mark("0x1040/0x1040"), Ok(Mark::default()));
        assert_eq!(mark("7"), Ok(Mark { value: 7, mask: u32::MAX }));
        assert_eq!(mark(&Mark::default().to_string()), Ok(Mark::default()));
        for wrong in ["", "0", "0x10/0x1", "0/0xff", "x", "0x1/0x", "0x123456789"] {
            assert!(mark(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_what_can_name_a_device_is_a_name() {
        for name in
            ["", "a/b", "Prod", "0a", "-a", "a.b", "sixteen-letters-", "lo", "all", "default"]
        {
            assert!(name.parse::<Instance>().is_err(), "{name:?}");
        }
        assert!("fifteen-letters".parse::<Instance>().is_ok());
    }
}
