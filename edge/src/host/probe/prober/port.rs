//! Whether the mesh's own UDP packets pass the host's firewall.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::time::timeout;

use super::{
    Key, MIN_MISSES, Means, Prober, Seen,
    verdict::{Life, Verdict},
};
use crate::host::{
    command,
    probe::{
        PortSite, Site,
        cause::Path,
        facts::{Finding, PortFacts},
        packet::Kind,
        plan::Probe,
    },
    sysctl,
};

/// Links that are tried in a round, by turns.
const MAX_LINKS: usize = 4;
/// How long a refused send says something: a peer that does not answer is dialled every few seconds.
const SENDING_LIFE: Duration = Duration::from_secs(12);
/// What rules contain that compare a packet's source with the routes, of nft and of iptables.
const FILTER_RULES: [&str; 2] = ["fib saddr", "rpfilter"];
/// How long a datagram may take to the socket.
const TIMEOUT: Duration = Duration::from_millis(200);

/// What does not pass.
#[derive(Debug, Default)]
pub(super) struct Known {
    new: Option<Blocked>,
    link: Option<Blocked>,
    sending: Option<Blocked>,
    /// Rounds in which a datagram was lost for an unknown reason.
    unclear: u32,
    /// Sends that were refused before the last round.
    refused: u64,
    /// The firewall under which sends were refused and no rule was found.
    unexplained: Option<u32>,
}

#[derive(Debug)]
struct Blocked {
    finding: Finding,
    /// A reverse path filter does it.
    is_filter: bool,
    life: Life,
}

impl Known {
    pub(super) fn is_suspect(&self) -> bool {
        let all = [&self.new, &self.link, &self.sending];
        self.unclear > 0 || all.into_iter().any(Option::is_some)
    }

    /// The rules were changed by this process alone.
    pub(super) fn follow(&mut self, old: u32, new: u32) {
        let all = [&mut self.new, &mut self.link, &mut self.sending];
        for blocked in all.into_iter().flatten() {
            blocked.life.follow(old, new);
        }
    }
}

impl Prober {
    pub(super) async fn measure_port(&mut self, site: &Site) -> PortFacts {
        let port = &site.port;
        let turn = self.turn;
        let by_turns = (0..port.linked.len().min(MAX_LINKS))
            .filter_map(|index| port.linked.get((turn + index) % port.linked.len()).copied());
        // Where dials fail, answers may be what is dropped.
        let failing = port.failing.iter().copied().take(MAX_LINKS);
        let linked: Vec<SocketAddr> = failing.chain(by_turns).collect();
        let mut link = None;
        for remote in linked {
            link = link.or(self.blocked(remote, true, site).await);
        }
        let peer = match port.peers.len() {
            0 => None,
            count => port.peers.get(turn % count).copied(),
        };
        let mut new = None;
        if let (true, Some(peer)) = (port.is_dialled, peer) {
            new = self.blocked(SocketAddr::new(peer, 0), false, site).await;
        }
        if link.is_none() && new.is_none() {
            self.port.unclear = 0;
        }
        self.port.link = self.finding(link, site, |known| known.link.take()).await;
        self.port.new = self.finding(new, site, |known| known.new.take()).await;
        self.measure_sending(port, site).await;
        let finding =
            |blocked: &Option<Blocked>| blocked.as_ref().map(|blocked| blocked.finding.clone());
        let is_filter =
            |blocked: &Option<Blocked>| blocked.as_ref().is_some_and(|blocked| blocked.is_filter);
        PortFacts {
            new_filtered: is_filter(&self.port.new),
            link_filtered: is_filter(&self.port.link),
            new_blocked: finding(&self.port.new),
            link_blocked: finding(&self.port.link),
            sending_blocked: finding(&self.port.sending),
            link_down: port.link_down,
        }
    }

    /// The probe, if a datagram from there does not reach the socket. With `exact` it is one of the flow
    /// of a link, otherwise of a new flow.
    async fn blocked(
        &mut self,
        remote: SocketAddr,
        exact: bool,
        site: &Site,
    ) -> Option<(Probe, u16)> {
        let kernel = self.means.kernel.as_ref()?;
        let exit = kernel.exit(remote.ip(), site.port.mark).await.ok()??;
        let (from, kind) = (remote.ip(), Kind::Udp);
        let probe = Probe { path: Path::PortIn, device: exit.device, from, to: exit.source?, kind };
        let tap = self.means.tap.as_mut().ok()?;
        tap.add_target(exit.device, kernel).await.ok()?;
        // Twice: a busy socket may lose one.
        for _ in 0..2 {
            if self
                .means
                .reaches_socket(&probe, exact.then_some(remote.port()), site.port.listen)
                .await
            {
                return None;
            }
        }
        // Otherwise the next round measures it with a device that is made again.
        self.means.can_send().await.then_some((probe, if exact { remote.port() } else { 0 }))
    }

    async fn finding(
        &mut self,
        blocked: Option<(Probe, u16)>,
        site: &Site,
        known: impl Fn(&mut Known) -> Option<Blocked>,
    ) -> Option<Blocked> {
        let known = known(&mut self.port);
        let (probe, source_port) = blocked?;
        if let Some(known) = known.filter(|known| known.life.holds(self.generation)) {
            return Some(known);
        }
        let key = Key {
            path: Path::PortIn,
            device: probe.device,
            v6: probe.to.is_ipv6(),
            kind: Kind::Udp,
        };
        let verdicts = self.analyse_port(key, probe, source_port, site).await;
        let filter = self.kernel_filter(&probe, site).await;
        let verdict = verdicts.get(&key)?;
        let (text, fix) = match (verdict, &filter) {
            (Verdict::Dropped { cause, .. }, _) => (cause.text.clone(), cause.fix.clone()),
            (Verdict::Unknown(_), Some((text, fix))) => (text.clone(), fix.clone()),
            (Verdict::Unknown(cause), None) => {
                self.port.unclear += 1;
                if self.port.unclear < MIN_MISSES {
                    return None;
                }
                (cause.text.clone(), cause.fix.clone())
            }
            (Verdict::Passes | Verdict::Guarded | Verdict::SourceNat(_), _) => return None,
        };
        let is_filter = filter.is_some_and(|(text_of_it, _)| text_of_it == text)
            || FILTER_RULES.iter().any(|rule| text.contains(rule));
        let flow = if source_port == 0 { "a new flow" } else { "a link" };
        let text = format!(
            "UDP packets of {flow} from {} to port {} on {} do not reach this process: {text}",
            probe.from,
            site.port.listen,
            self.names.name(probe.device)
        );
        let finding = Finding { text, fix };
        let life = Life::new(self.generation, verdict.life());
        Some(Blocked { finding, is_filter, life })
    }

    /// The kernel's own filter, if it drops packets of this source: it does if the route to the source, without the
    /// edge's mark, leads to another device (ip-sysctl.rst, `rp_filter`).
    async fn kernel_filter(&self, probe: &Probe, site: &Site) -> Option<(String, Option<String>)> {
        let kernel = self.means.kernel.as_ref()?;
        let device = self.names.name(probe.device);
        let of = |name: &str| sysctl::number(&format!("ipv4/conf/{name}/rp_filter"));
        let is_strict = of("all").max(of(&device)) == Some(1);
        if !is_strict || probe.from.is_ipv6() {
            return None;
        }
        let back = kernel.exit(probe.from, 0).await.ok()?;
        let other = match back {
            Some(exit) if exit.device == probe.device => return None,
            Some(exit) if Some(exit.device) == site.tun => {
                "this address is inside a prefix of the mesh".to_owned()
            }
            Some(exit) => format!("the route to it leads to {}", self.names.name(exit.device)),
            None => "there is no route to it".to_owned(),
        };
        let text = format!(
            "the reverse path filter of {device} (rp_filter = 1) drops them, because {other}"
        );
        Some((text, command::sysctl(&format!("ipv4/conf/{device}/rp_filter"), 2)))
    }

    async fn measure_sending(&mut self, port: &PortSite, site: &Site) {
        let grown = port.refused_sends > self.port.refused;
        self.port.refused = port.refused_sends;
        if !grown {
            let holds = |known: &Blocked| known.life.holds(self.generation);
            self.port.sending = self.port.sending.take().filter(holds);
            return;
        }
        if let Some(known) = &mut self.port.sending
            && known.life.holds(self.generation)
        {
            known.life = Life::new(self.generation, SENDING_LIFE);
            return;
        }
        let Some(peer) = port.peers.first().copied() else { return };
        let kind = Kind::Udp;
        let probe = Probe { path: Path::PortOut, device: 0, from: peer, to: peer, kind };
        let key = Key { path: Path::PortOut, device: 0, v6: peer.is_ipv6(), kind: Kind::Udp };
        let verdicts = self.analyse_port(key, probe, port.listen, site).await;
        let (text, fix) = match verdicts.get(&key) {
            Some(Verdict::Dropped { cause, .. }) => {
                (format!(": {}", cause.text), cause.fix.clone())
            }
            // They may have been refused just before the firewall became another one.
            Some(_) | None
                if self.port.unexplained.replace(self.generation) != Some(self.generation) =>
            {
                self.port.sending = None;
                return;
            }
            Some(_) | None => (String::new(), None),
        };
        let text =
            format!("this host's firewall refuses the UDP packets that this process sends{text}");
        let finding = Finding { text, fix };
        let life = Life::new(self.generation, SENDING_LIFE);
        self.port.sending = Some(Blocked { finding, is_filter: false, life });
    }

    async fn analyse_port(
        &mut self,
        key: Key,
        probe: Probe,
        source_port: u16,
        site: &Site,
    ) -> BTreeMap<Key, Verdict> {
        let due = BTreeMap::from([(key, vec![(probe, Seen::Lost)])]);
        self.analyse_from(&due, source_port, site).await
    }
}

impl Means {
    /// Whether a datagram to the mesh's port reaches the socket.
    async fn reaches_socket(&mut self, probe: &Probe, from: Option<u16>, to: u16) -> bool {
        let mut packet = self.packet(probe, Kind::Udp);
        packet.to.1 = to;
        if let Some(from) = from {
            packet.from.1 = from;
        }
        let Some(bytes) = packet.bytes(self.magic) else { return false };
        self.send(probe, bytes);
        let arrives = async {
            while let Some(arrival) = self.arrivals.recv().await {
                if arrival.id == packet.id {
                    return true;
                }
            }
            false
        };
        timeout(TIMEOUT, arrives).await.unwrap_or(false)
    }
}
