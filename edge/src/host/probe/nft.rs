//! The firewall table that counts and drops probes on their way out, and what is read from it.
//!
//! It is written with `nft` and read over netlink: a process for each round would cost more than all the
//! probes.

use std::{collections::BTreeSet, io};

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::{
    host::{
        driver::probes::{LARGE_LEN, Magic, TRAILER_LEN, V4_LEN, V6_LEN},
        firewall::nft,
    },
    instance::Instance,
};

/// The ports of probes that are counted. Traceroute uses them: where packets to them are dropped, that
/// is for a reason which is not these numbers.
pub(super) const FIRST_PORT: u16 = 33_434;
pub(super) const PORTS: u16 = 256;
/// The first of as many ports of probes that are counted at the device by which they leave.
pub(super) const FIRST_EGRESS_PORT: u16 = FIRST_PORT + PORTS;

/// The priority of the last hook that is not the connection tracker's. What is dropped here has passed
/// all rules, and leaves no entry in the connection table.
const LAST: i32 = i32::MAX - 1;
const FIRST: i32 = i32::MIN + 1;
/// For chains after those of others. The kernel refuses the last few numbers in some hooks.
const LATE: i32 = i32::MAX - 8;

const SET: &str = "probed";

// linux/netfilter/nfnetlink.h and nf_tables.h.
const SUBSYSTEM: u16 = 10 << 8;
const GET_SET_ELEMENTS: u16 = 13;
const GET_GENERATION: u16 = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 0x01;
const DUMP: u16 = 0x300;
const INET: u8 = 1;
const NETDEV: u8 = 5;
const GET_CHAIN: u16 = 4;
/// `NF_NETDEV_EGRESS` of linux/netfilter.h.
const EGRESS: u32 = 1;
const ATTRIBUTE_MASK: u16 = 0x3fff;

/// The name of the table in which probes are counted.
pub(super) fn table(instance: &Instance) -> String {
    format!("cframe-probe-{instance}")
}

/// The name of the table that is there while packets are traced.
pub(super) fn trace_table(instance: &Instance) -> String {
    format!("cframe-trace-{instance}")
}

/// Makes the table, from scratch. Where another program has rules at the devices by which packets leave,
/// those to the upper ports are let out, and dropped at `egress`: only to neighbours that are known, because
/// a packet waits for the others before it comes to its device.
pub(super) fn count_script(instance: &Instance, magic: Magic, egress: &BTreeSet<String>) -> String {
    let (table, device) = (table(instance), instance.name());
    let [v4, v6] = matches(magic);
    let (mut more, mut let_out) = (String::new(), String::new());
    if !egress.is_empty() {
        let ports = format!("{FIRST_EGRESS_PORT}-{}", FIRST_EGRESS_PORT + PORTS - 1);
        let_out = format!("\t\tmeta l4proto {{ tcp, udp }} th dport {ports} accept\n");
        more = format!(
            "{}\
             table netdev {table} {{\n\
             \tset {SET} {{ type inet_service; size 2048; flags dynamic,timeout; timeout 1s; }}\n\
             \tchain probe {{\n\t\tupdate @{SET} {{ th dport }}\n\t\tdrop\n\t}}\n",
            egress_removal(instance)
        );
        for (number, device) in egress.iter().enumerate() {
            more.push_str(&format!(
                "\tchain egress-{number} {{\n\
                 \t\ttype filter hook egress device \"{device}\" priority {LATE}; policy accept;\n\
                 \t\t{v4} goto probe\n\t\t{v6} goto probe\n\t}}\n"
            ));
        }
        more.push_str("}\n");
    }
    format!(
        "{}\
         table inet {table} {{\n\
         \tset {SET} {{ type iface_index . inet_service; size 2048; flags dynamic,timeout; timeout 1s; }}\n\
         \tchain postrouting {{\n\
         \t\ttype filter hook postrouting priority {LAST}; policy accept;\n\
         \t\t{v4} goto probe\n\
         \t\t{v6} goto probe\n\
         \t}}\n\
         \tchain probe {{\n\
         \t\toifname \"{device}\" accept\n\
         {let_out}\
         \t\tupdate @{SET} {{ oif . th dport }}\n\
         \t\tdrop\n\
         \t}}\n\
         }}\n\
         {more}",
        removal(&table)
    )
}

/// Removes what counts at devices. An old kernel refuses it.
pub(super) fn egress_removal(instance: &Instance) -> String {
    let table = table(instance);
    format!("add table netdev {table}\ndelete table netdev {table}\n")
}

/// Makes the table that traces probes, and the datagrams of the mesh's socket that are sent from `port`.
/// `devices`: those by which probes come in, which older kernels cannot trace from their arrival on.
pub(super) fn trace_script(
    instance: &Instance,
    magic: Magic,
    port: u16,
    devices: &BTreeSet<String>,
) -> String {
    let table = trace_table(instance);
    let mut script = removal(&table);
    script.push_str(&format!("table inet {table} {{\n"));
    for (number, device) in devices.iter().enumerate() {
        script.push_str(&format!(
            "\tchain ingress-{number} {{\n\
             \t\ttype filter hook ingress device \"{device}\" priority {FIRST}; policy accept;\n"
        ));
        for probe in matches(magic) {
            script.push_str(&format!("\t\t{probe} meta nftrace set 1 continue\n"));
        }
        script.push_str("\t}\n");
    }
    for hook in ["prerouting", "input", "forward", "postrouting"] {
        for (end, priority) in [("first", FIRST), ("last", LATE)] {
            script.push_str(&format!(
                "\tchain {hook}-{end} {{\n\t\ttype filter hook {hook} priority {priority}; policy accept;\n"
            ));
            for probe in matches(magic) {
                let start = hook == "prerouting" && end == "first";
                let set = if start { " meta nftrace set 1" } else { "" };
                script.push_str(&format!("\t\t{probe}{set} continue\n"));
            }
            script.push_str("\t}\n");
        }
    }
    script.push_str(&format!(
        "\tchain output-first {{\n\
         \t\ttype filter hook output priority {FIRST}; policy accept;\n\
         \t\tudp sport {port} limit rate 20/second meta nftrace set 1 continue\n\
         \t}}\n\
         }}\n"
    ));
    script
}

pub(super) fn removal(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// What only probes match, IPv4 and IPv6: their length, and the number of this process.
fn matches(magic: Magic) -> [String; 2] {
    let number = u64::from_be_bytes(magic);
    [V4_LEN, V6_LEN].map(|len| {
        let offset = (len - TRAILER_LEN) * 8;
        format!("meta length {{ {len}, {LARGE_LEN} }} @nh,{offset},64 {number:#x}")
    })
}

/// Runs a script of `nft`.
///
/// # Errors
/// What `nft` says, or that it is not there.
pub(super) async fn run(script: &str) -> Result<(), String> {
    nft::apply(script.to_owned()).await.map_err(|error| error.to_string())
}

/// Reads from the firewall of the kernel.
pub(super) struct Reader {
    socket: Socket,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// The number of the ruleset, another one after each change by whatever program of nftables.
    pub(super) fn generation(&self) -> io::Result<u32> {
        let mut generation = 0;
        self.request(INET, GET_GENERATION, 0, &[], |attributes| {
            if let Some(id) = find(attributes, 1).and_then(<[u8]>::first_chunk) {
                generation = u32::from_be_bytes(*id);
            }
        })?;
        Ok(generation)
    }

    /// The ports of probes that were counted within the last second, with the devices by which they left;
    /// 0 for those that were counted at a device itself.
    ///
    /// # Errors
    /// `NotFound` if there is no such table.
    pub(super) fn counted(
        &self,
        instance: &Instance,
        at_egress: bool,
    ) -> io::Result<BTreeSet<(u32, u16)>> {
        let family = if at_egress { NETDEV } else { INET };
        let mut attributes = Vec::new();
        for (kind, value) in [(1_u16, table(instance).as_str()), (2, SET)] {
            let len = 4 + value.len() + 1;
            attributes.extend_from_slice(&(len as u16).to_ne_bytes());
            attributes.extend_from_slice(&kind.to_ne_bytes());
            attributes.extend_from_slice(value.as_bytes());
            attributes.resize(attributes.len() + 1 + (4 - len % 4) % 4, 0);
        }
        let mut ports = BTreeSet::new();
        self.request(family, GET_SET_ELEMENTS, DUMP, &attributes, |attributes| {
            for (_, element) in find(attributes, 3).into_iter().flat_map(Attributes) {
                let value = find(element, 1).and_then(|key| find(key, 1));
                ports.extend(value.and_then(counted));
            }
        })?;
        Ok(ports)
    }

    /// Whether another program has rules at a device by which packets leave.
    pub(super) fn has_egress_rules(&self, instance: &Instance) -> io::Result<bool> {
        let (own, mut found) = (table(instance), false);
        self.request(NETDEV, GET_CHAIN, DUMP, &[], |attributes| {
            let hook = find(attributes, 4).and_then(|hook| find(hook, 1)?.first_chunk());
            let table = find(attributes, 1).and_then(|name| name.strip_suffix(&[0]));
            let is_egress = hook.is_some_and(|number| u32::from_be_bytes(*number) == EGRESS);
            found |= is_egress && table != Some(own.as_bytes());
        })?;
        Ok(found)
    }

    /// Sends a request and hands the attributes of each answer to `read`. The kernel answers while the
    /// request is sent, so there is nothing to wait for.
    fn request(
        &self,
        family: u8,
        kind: u16,
        flags: u16,
        attributes: &[u8],
        mut read: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut message = Vec::with_capacity(20 + attributes.len());
        message.extend_from_slice(&(20 + attributes.len() as u32).to_ne_bytes());
        message.extend_from_slice(&(SUBSYSTEM | kind).to_ne_bytes());
        message.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(&[family, 0, 0, 0]);
        message.extend_from_slice(attributes);
        // Answers of a request that failed halfway.
        while self.socket.recv_from_full().is_ok() {}
        self.socket.send(&message, 0)?;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while let Some((kind, body, next)) = split_message(rest) {
                rest = next;
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                        return if code == 0 {
                            Ok(())
                        } else {
                            Err(io::Error::from_raw_os_error(-code))
                        };
                    }
                    _ => read(body.get(4..).unwrap_or_default()),
                }
            }
            if flags & DUMP == 0 {
                return Ok(());
            }
        }
    }
}

/// Device and port of an element: each part takes a multiple of four bytes.
fn counted(key: &[u8]) -> Option<(u32, u16)> {
    let port = |bytes: &[u8]| bytes.first_chunk().map(|port| u16::from_be_bytes(*port));
    match key.len() {
        8.. => Some((u32::from_ne_bytes(*key.first_chunk()?), port(key.get(4..)?)?)),
        _ => Some((0, port(key)?)),
    }
}

/// Kind and body of the first message (linux/netlink.h), and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(16..len)?;
    let next = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, next))
}

fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    Attributes(attributes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// Kinds and values of netlink attributes.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16::from_ne_bytes(*self.0.first_chunk()?));
        let kind = u16::from_ne_bytes(*self.0.get(2..)?.first_chunk()?) & ATTRIBUTE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: Magic = [1, 2, 3, 4, 5, 6, 7, 8];

    #[test]
    fn probes_are_recognised_by_length_and_number_and_dropped_only_toward_the_site() {
        let script = count_script(&Instance::default(), MAGIC, &BTreeSet::new());
        assert!(
            script.contains("meta length { 67, 1263 } @nh,408,64 0x102030405060708 goto probe")
        );
        assert!(
            script.contains("meta length { 87, 1263 } @nh,568,64 0x102030405060708 goto probe")
        );
        let (accept, drop) = (script.find("oifname \"cframe0\" accept"), script.find("\tdrop"));
        assert!(accept.unwrap() < drop.unwrap());
        assert!(script.starts_with("add table inet cframe-probe-cframe0\ndelete table"));
        assert!(!script.contains("netdev"));
        let devices = BTreeSet::from(["lan0".to_owned()]);
        let script = count_script(&Instance::default(), MAGIC, &devices);
        let (let_out, drop) = (script.find("dport 33690-33945 accept"), script.find("\tdrop"));
        assert!(let_out.unwrap() < drop.unwrap());
        assert!(script.contains("hook egress device \"lan0\""));
    }

    #[test]
    fn a_probe_is_counted_with_the_device_by_which_it_leaves() {
        let script = count_script(&Instance::default(), MAGIC, &BTreeSet::new());
        assert!(script.contains("update @probed { oif . th dport }"), "{script}");
        let mut key = 7_u32.to_ne_bytes().to_vec();
        key.extend([0x82, 0x9a, 0, 0]);
        assert_eq!(counted(&key), Some((7, 33_434)));
        assert_eq!(counted(&[0x82, 0x9a]), Some((0, 33_434)));
        assert_eq!(counted(&[1]), None);
    }

    #[test]
    fn damaged_messages_are_no_messages() {
        assert_eq!(split_message(&[0; 20]), None);
        assert_eq!(split_message(&[255; 20]), None);
        assert_eq!(split_message(&[]), None);
        assert_eq!(Attributes(&[0; 8]).count(), 0);
        assert_eq!(Attributes(&[200; 8]).count(), 0);
        assert_eq!(Attributes(&[5, 0, 1, 0, 9, 0, 0, 0, 4, 0, 2, 0]).count(), 2);
    }
}
