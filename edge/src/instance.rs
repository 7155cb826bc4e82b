//! An instance and what its name determines on the host.
//!
//! One host can run edges of several namespaces. Everything that they could collide on is derived from
//! the instance's name alone, so that `down` finds what a killed process has left.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The name of an instance, if none is given.
pub const DEFAULT: &str = "cframe0";

/// The mark of underlay packets, under [`MARK_MASK`]. All instances share it, because a rule of one
/// must not match the packets of another.
pub const MARK: u32 = 0xcf00_0000;
/// The other bits of a packet's mark are left to other programs on the host.
pub const MARK_MASK: u32 = 0xff00_0000;

const TABLES: u32 = 0x00cf_0000;

/// The kernel's limit for a device's name (`IFNAMSIZ` with its NUL, linux/if.h).
const MAX_LEN: usize = 15;

/// The name of an instance, which is also the name of its TUN device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance(String);

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

    /// The mark of the instance's underlay packets: [`MARK`], and its own bits.
    pub fn mark(&self) -> u32 {
        MARK | u32::from(self.hash())
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
    fn a_name_determines_table_and_mark_for_good() {
        let instance = Instance::default();
        assert_eq!(instance.name(), "cframe0");
        assert_eq!(instance.table(), 0x00cf_0000 | u32::from(instance.hash()));
        assert_eq!(instance.mark() & MARK_MASK, 0xcf00_0000);
        // With another hash, tables of running hosts would never be removed.
        assert_eq!(instance.hash(), 0x216c);
    }

    #[test]
    fn instances_share_the_skipped_bits_and_nothing_else() {
        let names = ["cframe0", "cframe1", "prod", "staging", "prod-b"];
        let instances: Vec<Instance> = names.iter().map(|name| name.parse().unwrap()).collect();
        for (i, a) in instances.iter().enumerate() {
            for b in &instances[i + 1..] {
                assert_ne!(a.table(), b.table(), "{a} {b}");
                assert_ne!(a.mark(), b.mark(), "{a} {b}");
                assert_eq!(a.mark() & MARK_MASK, b.mark() & MARK_MASK);
                assert_ne!(a.paths(None), b.paths(None));
            }
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
