//! The catalogue of problems: every code that an edge or a controller can report, with its meaning.
//! `doc/problems.md` is made from it.

use std::{fmt, str::FromStr};

use cframe_pki::identity::Label;
use serde::{Deserialize, Serialize};

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Traffic passes; something needs attention before it does not.
    Warning,
    /// Traffic that should pass does not, or is not protected as it should be.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A name that is not in the catalogue, such as one of a later version.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a code of a problem; see doc/problems.md")]
pub struct UnknownCode(String);

macro_rules! catalogue {
    ($($code:ident = $name:literal, $severity:ident, $title:literal, $meaning:literal;)*) => {
        /// What is wrong. The name is stable: scripts and alert rules use it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($code,)*
        }

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$code,)*];

            /// Lower-case words separated by `-`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$code => $name,)*
                }
            }

            pub fn severity(self) -> Severity {
                match self {
                    $(Self::$code => Severity::$severity,)*
                }
            }

            /// A heading, without what the problem is about.
            pub fn title(self) -> &'static str {
                match self {
                    $(Self::$code => $title,)*
                }
            }

            /// A heading for a number of problems: `300 edges have not joined yet`.
            pub fn heading(self, count: u32) -> String {
                if count == 1 { self.title().to_owned() } else { plural(self.title(), count) }
            }

            /// What was measured, and what to do: for `doc/problems.md`.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$code => $meaning,)*
                }
            }
        }
    };
}

catalogue! {
    // Links.
    LinkDown = "link-down", Error, "a link is down",
        "No packet passes between two edges. The text says what was seen at this end: no answer, a refusal and its \
         reason, or the step at which the handshake stopped.";
    LinkTooNarrow = "link-too-narrow", Error, "the path of a link is too narrow",
        "The path between two edges does not carry packets of 1,228 bytes (1,248 over IPv6), which QUIC needs \
         (RFC 9000 §14), or carries them in one direction only. A link may be up meanwhile, because smaller packets \
         pass. Raise the MTU of the narrow hop, often another tunnel, or let it fragment.";
    LinkTooSlow = "link-too-slow", Warning, "the path of a link is very slow",
        "Answers arrive only after seconds. The handshake waits for the measured round-trip time.";
    LinkLossy = "link-lossy", Error, "a link loses packets",
        "At least a fifth of the packets between two edges are lost, as measured by small packets of the edges \
         themselves. Look for a full, faulty or overloaded hop on the path.";
    LinkOneWay = "link-one-way", Error, "only the first packet of a link was answered",
        "The peer's first answer arrived and later packets do not: a firewall on the way forgets or refuses the flow \
         after its first packet.";
    LinkEcnDropped = "link-ecn-dropped", Warning, "the path drops packets that are marked for ECN",
        "Handshakes succeed only without ECN marks (RFC 3168), so they are sent without.";
    NoEndpoint = "no-endpoint", Error, "two edges have no path to each other",
        "Neither of two edges has an endpoint, so neither can dial the other. Give one of them an endpoint: \
         cfctl edge set.";
    EndpointUnresolved = "endpoint-unresolved", Error, "an endpoint does not resolve",
        "The name of an endpoint has no address, or the resolver does not answer.";
    EndpointIsSelf = "endpoint-is-self", Error, "an endpoint leads back to the edge that dials it",
        "The address that is configured for a peer is this edge's own.";
    EndpointIsOther = "endpoint-is-other", Error, "at an endpoint another edge answers",
        "The edge that answers at a peer's endpoint has another name: two edges have the same endpoint, or a port is \
         forwarded to the wrong host.";
    IdentityInUse = "identity-in-use", Error, "an identity is used by two hosts",
        "The data directory of a gateway was copied and both copies run. Stop one of them, and join the other with a \
         token of its own.";
    ConnectionTableFull = "connection-table-full", Error, "the host's connection table is full",
        "nf_conntrack drops packets of new flows. Raise net.netfilter.nf_conntrack_max, or exempt the mesh's UDP port \
         with a notrack rule.";
    ReplyFiltered = "reply-filtered", Error, "a reverse path filter drops the answers of peers",
        "The packets of a peer arrive by another device than the one by which this host would send to it, and the \
         filter of that device is strict.";
    MarkDropped = "mark-dropped", Error, "a rule drops or redirects the edge's own marked packets",
        "The edge marks its own UDP packets so that they bypass its routes. A rule on this host handles packets with \
         this mark differently. Change that rule, or the setting `mark`.";
    PortBlocked = "port-blocked", Error, "this host's firewall drops the packets of peers",
        "A packet to the mesh's UDP port that arrives on the uplink does not reach the edge: a rule of this host drops it.";

    // The host: forwarding and firewall.
    ForwardingOff = "forwarding-off", Error, "the host does not forward packets",
        "The kernel's forwarding is off for the host or for one of its devices.";
    ForwardBlocked = "forward-blocked", Error, "packets are not forwarded between the site and the mesh",
        "A packet that the edge sent through the host's own forwarding path did not arrive. If the rule that dropped \
         it could be found, the text names it.";
    ForwardPartly = "forward-partly", Warning, "only some packets are forwarded between the site and the mesh",
        "Probes over UDP do not pass the host's firewall and packets of another kind do, such as pings or connections \
         to one port. That is right where the operator wants it.";
    Masqueraded = "masqueraded", Error, "the site's packets get another source address before they reach the tunnel",
        "A NAT rule of this host rewrites the source of packets toward the mesh, where only addresses of the site may \
         pass. Exempt the tunnel before that rule.";
    SnatMissing = "snat-missing", Error, "masquerading toward the site is configured and not in force",
        "The rule that replaces the source of packets from the mesh is not in the kernel.";
    GuardMissing = "guard-missing", Warning, "nothing keeps packets for the mesh from leaving in the clear",
        "The edge's own firewall table cannot be made, so only its routes keep packets for other sites off the uplink.";
    RouteBypassed = "route-bypassed", Error, "packets for the mesh are routed past the tunnel",
        "A policy rule before the edge's own sends packets for a mesh prefix elsewhere. The edge's firewall table drops \
         them, so that they do not leave in the clear.";
    ChangesUndone = "changes-undone", Warning, "another program undoes what the edge sets",
        "A program on this host removes the edge's rules, routes or firewall table again and again. The edge repairs \
         them ever more slowly.";
    RoutesRefused = "routes-refused", Error, "the kernel refuses routes",
        "A change of the edge's routing table or rules failed.";
    LanDown = "lan-down", Error, "a device of the site is down or has no carrier",
        "The cable of a device by which this host reaches its site is out, the device at its other end is down, or the \
         device itself is. A bridge without ports is not meant.";
    DeviceMissing = "device-missing", Error, "the tunnel's device is missing or down",
        "The TUN device cannot be made or brought up.";
    DeviceMtu = "device-mtu", Warning, "another program changes the MTU of the tunnel's device",
        "The MTU of the TUN device is not the one of the namespace's settings. The edge sets it again.";
    OverlapHides = "overlap-hides", Error, "a local network hides a prefix of another site",
        "A network of this host contains a whole prefix of another site and takes precedence. Renumber one of them.";
    OverlapPart = "overlap-part", Warning, "a local network hides a part of a prefix of another site",
        "A network or a more specific route of this host lies inside a prefix of another site and takes precedence.";
    SiteUncovered = "site-uncovered", Warning, "a part of the site's own prefix has no route on this host",
        "For addresses of this site that are in none of the host's networks there is only the default route. Whether \
         they may leave by it is decided by the setting `own_prefixes`.";
    RouterAdvertisements = "router-advertisements", Warning, "router advertisements are ignored",
        "IPv6 forwarding makes the kernel ignore router advertisements, unless accept_ra is 2.";
    ReservedPrefix = "reserved-prefix", Warning, "a mesh prefix contains an address of the cloud's own services",
        "Metadata and other services of clouds have fixed addresses that are valid on one host only. They are never \
         routed into the mesh.";

    // The edge itself.
    NotRunning = "not-running", Error, "cframe-edge does not run",
        "No process answers at the local socket.";
    NoTunDevice = "no-tun-device", Error, "the kernel has no TUN devices",
        "/dev/net/tun is missing or cannot be opened.";
    NotAllowed = "not-allowed", Error, "a permission is missing",
        "The command needs root, or the capability CAP_NET_ADMIN.";
    NoController = "no-controller", Warning, "no controller can be reached",
        "Traffic continues with the last state; changes and renewals wait.";
    CutOff = "cut-off", Error, "the edge is cut off from the mesh",
        "A controller has removed the edge or revoked its certificate.";
    CertificateInvalid = "certificate-invalid", Error, "the certificate cannot be used",
        "It is missing, unreadable or expired.";
    CertificateNotRenewed = "certificate-not-renewed", Warning, "the certificate is not renewed",
        "A renewal is due and has failed.";
    ClockWrong = "clock-wrong", Error, "the clock is wrong",
        "The host's clock contradicts the certificate or the saved state.";
    StateNotSaved = "state-not-saved", Warning, "the state cannot be saved",
        "A file in the data directory cannot be written: the disk is full or read-only. After a restart the edge would \
         use older state.";
    SavedStateDamaged = "saved-state-damaged", Warning, "the saved state is damaged",
        "It is not used, and replaced when a controller sends the state.";
    NotMeasured = "not-measured", Warning, "forwarding cannot be measured on this host",
        "The kernel lacks what the measurement needs, or a prefix of the site is an address of the host itself, for \
         which packets are not forwarded. Problems of the host's firewall may stay unseen.";

    // What controllers know.
    NotJoined = "not-joined", Error, "an edge has not joined yet",
        "The edge was added and has no certificate. Create a token for it: cfctl token create.";
    EdgeOffline = "edge-offline", Error, "an edge has no session with a controller",
        "The edge, its host or its way to all controllers is down.";
    EdgeRevoked = "edge-revoked", Error, "an edge is revoked",
        "All certificates of the edge are revoked. Bring it back with a token of `cfctl token create --rejoin`, or \
         remove it: cfctl edge del.";
    EdgeBehind = "edge-behind", Error, "an edge has not applied the newest state",
        "The edge has a session and did not acknowledge the newest version within 10 s.";
    SameEndpoint = "same-endpoint", Warning, "two edges have the same endpoint",
        "No endpoint of an edge is its own: another edge of the namespace has it too, and only one of them can be reached \
         there. If no link suffers, because every peer dials from where the address is the right one, leave it.";
    MoreProblems = "more-problems", Warning, "an edge has more problems than it can report",
        "An edge reports at most 32 problems, those of its host first. `cframe-edge doctor` on its host shows all.";
    ControllerDown = "controller-down", Error, "a controller does not run or does not answer",
        "What only that controller knows is missing from the status.";
    StoreProblem = "store-problem", Error, "the store cannot be used",
        "Writes fail. Edges continue with the state that they have.";
    StoreOlder = "store-older", Error, "the store is older than what edges have",
        "The store was replaced by an older copy. Edges do not go back: nothing that is written reaches them. If there is \
         a newer store, put it back. If not, cfctl store accept lets the edges follow this one; make the changes and \
         revocations again that it does not have.";
    Expiring = "expiring", Warning, "a certificate, key or token expires soon",
        "Something that is not renewed by itself ends soon.";
}

impl Code {
    /// Whether an edge finds it on its own host, so that the fix is for a shell there. The fixes of all others say where
    /// they are for, if that is not where they are read.
    pub fn is_of_host(self) -> bool {
        !self.is_of_links() && !self.is_of_controllers()
    }

    fn is_of_links(self) -> bool {
        matches!(
            self,
            Self::LinkDown
                | Self::LinkTooNarrow
                | Self::LinkTooSlow
                | Self::LinkLossy
                | Self::LinkOneWay
                | Self::LinkEcnDropped
                | Self::NoEndpoint
                | Self::EndpointUnresolved
                | Self::EndpointIsSelf
                | Self::EndpointIsOther
                | Self::IdentityInUse
        )
    }

    fn is_of_controllers(self) -> bool {
        matches!(
            self,
            Self::NotJoined
                | Self::EdgeOffline
                | Self::EdgeRevoked
                | Self::EdgeBehind
                | Self::SameEndpoint
                | Self::MoreProblems
                | Self::ControllerDown
                | Self::StoreProblem
                | Self::StoreOlder
                | Self::Expiring
        )
    }
}

/// Puts the number into a title that starts with what is counted; behind any other.
fn plural(title: &str, count: u32) -> String {
    let replaced = [
        ("an edge has ", "edges have "),
        ("an edge is ", "edges are "),
        ("a link is ", "links are "),
        ("an endpoint does ", "endpoints do "),
        ("an endpoint leads ", "endpoints lead "),
        ("an identity is ", "identities are "),
    ];
    let found = replaced.iter().find_map(|(one, many)| Some((title.strip_prefix(one)?, many)));
    match found {
        Some((rest, many)) => format!("{count} {many}{rest}"),
        None => format!("{title} ({count})"),
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().copied().find(|code| code.name() == name);
        found.ok_or_else(|| UnknownCode(name.to_owned()))
    }
}

impl From<Code> for Label {
    #[expect(clippy::expect_used, reason = "a test checks every name")]
    fn from(code: Code) -> Self {
        code.name().parse().expect("a code's name is a label")
    }
}

/// `doc/problems.md`: every code with its meaning.
pub fn document() -> String {
    let mut text = "# Problems\n\nMade from `controller/protocol/src/problem.rs`. `cfctl status`, \
        `cframe-edge doctor`, `cframe-edge status`, the log and the metric\n\
        `cframe_edge_problem{code=\"…\"}` name problems by these codes. An **error** is traffic that \
        should pass and does not:\n`cfctl status` and `doctor` exit with 7. A **warning** alone leaves \
        the exit code at 0.\n"
        .to_owned();
    for code in Code::ALL {
        let (name, severity, title, meaning) =
            (code.name(), code.severity(), code.title(), code.meaning());
        text.push_str(&format!("\n## {name}\n\n{severity}: {title}.\n\n{meaning}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_is_made_from_the_catalogue() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../doc/problems.md");
        if std::env::var_os("CFRAME_WRITE_DOCUMENTS").is_some() {
            std::fs::write(path, document()).unwrap();
        }
        let current = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            current == document(),
            "CFRAME_WRITE_DOCUMENTS=1 cargo test -p cframe-protocol writes doc/problems.md"
        );
    }

    #[test]
    fn every_name_is_a_label_of_its_own_and_is_read_back() {
        let names: BTreeSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL.iter().copied() {
            assert_eq!(Label::from(code).as_str(), code.name());
            assert_eq!(code.name().parse(), Ok(code));
            assert!(code.meaning().ends_with('.') && !code.title().ends_with('.'), "{code}");
        }
        assert!("nonsense".parse::<Code>().is_err());
    }

    #[test]
    fn only_what_a_host_finds_on_itself_is_fixed_there() {
        assert!(Code::ForwardingOff.is_of_host() && Code::PortBlocked.is_of_host());
        assert!(!Code::LinkDown.is_of_host() && !Code::NotJoined.is_of_host());
    }

    #[test]
    fn a_heading_has_the_number() {
        assert_eq!(Code::NotJoined.heading(1), "an edge has not joined yet");
        assert_eq!(Code::NotJoined.heading(300), "300 edges have not joined yet");
        assert_eq!(Code::LinkDown.heading(2), "2 links are down");
        assert_eq!(Code::StoreProblem.heading(2), "the store cannot be used (2)");
    }
}
