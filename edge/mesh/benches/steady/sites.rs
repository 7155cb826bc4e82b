//! Names for the source locations of allocations.

use std::{backtrace::Backtrace, collections::BTreeMap};

use crate::counting::Traced;

/// Crates that allocate on the packet path, by a part of their files' paths. `bytes` allocates for
/// one of the others.
const OWNERS: [(&str, &str); 6] = [
    ("/quinn-proto-", "quinn_proto"),
    ("/rustls-", "rustls"),
    ("/pki/src/", "cframe_pki"),
    ("/edge/packet/src/", "cframe_packet"),
    ("/edge/mesh/src/", "cframe_mesh"),
    // `cargo bench` runs it in the package's directory.
    ("./src/", "cframe_mesh"),
];

/// Allocations of one source location.
#[derive(Clone, Debug, Default)]
pub(crate) struct AllocationSite {
    pub(crate) name: String,
    pub(crate) allocations: u64,
    pub(crate) bytes: u64,
}

impl AllocationSite {
    pub(crate) fn is_ours(&self) -> bool {
        self.name.starts_with("cframe_")
    }
}

/// Groups traced allocations by location.
pub(crate) fn by_site<'a>(traced: impl IntoIterator<Item = &'a Traced>) -> Vec<AllocationSite> {
    let mut sites = BTreeMap::<String, AllocationSite>::new();
    for one in traced {
        let site = sites.entry(name(&one.from)).or_default();
        site.allocations += 1;
        site.bytes += one.bytes as u64;
    }
    sites.into_iter().map(|(name, site)| AllocationSite { name, ..site }).collect()
}

/// The innermost function of an owner with its module's path, and whether it allocated through
/// `bytes`. Line tables have functions' bare names; the owner follows from the file.
fn name(from: &Backtrace) -> String {
    let text = from.to_string();
    let mut function = "";
    let mut through = "";
    // "  12: function", and then "      at file:line:column".
    for line in text.lines().map(str::trim_start) {
        let Some(file) = line.strip_prefix("at ") else {
            function = line.split_once(": ").map_or(line, |(_, name)| name);
            continue;
        };
        if file.contains("/bytes-") {
            through = ", through bytes";
        }
        if let Some((_, owner)) = OWNERS.iter().find(|(part, _)| file.contains(part)) {
            let function = function.split('<').next().unwrap_or(function);
            return format!("{owner}::{}{function}{through}", module(file));
        }
    }
    "elsewhere".to_owned()
}

/// `connection::spaces::` for `…/src/connection/spaces.rs:255:27`.
fn module(file: &str) -> String {
    let path = file.rsplit_once("/src/").map_or(file, |(_, path)| path);
    let path = path.split(".rs").next().unwrap_or(path);
    let parts = path.split('/').filter(|part| !matches!(*part, "mod" | "lib"));
    parts.map(|part| format!("{part}::")).collect()
}
