//! Sends probes, and sees which of them arrive.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::Instant,
};

use tokio::time::timeout;

use super::{Egress, Means, Missing, OTHER_KINDS, RETRY_DELAY, STEP, Seen, TIMEOUT};
use crate::host::{
    driver::probes::{Arrival, LARGE_LEN},
    netlink::Kernel,
    probe::{
        cause::Path,
        nft,
        packet::{Kind, Packet},
        plan::{Lan, Probe},
        tap::Tap,
    },
    sysctl,
};

impl Means {
    /// Without large packets if the TUN carries only smaller ones.
    pub(super) fn other_kinds(&self) -> &'static [Kind] {
        let mtu = sysctl::number(&format!("ipv6/conf/{}/mtu", self.instance.name()));
        let fits = mtu.is_some_and(|mtu| usize::try_from(mtu).is_ok_and(|mtu| mtu >= LARGE_LEN));
        if fits { &OTHER_KINDS } else { &OTHER_KINDS[1..] }
    }

    /// Makes what is missing.
    ///
    /// # Errors
    /// A text that says what cannot be measured and why.
    pub(super) async fn prepare(&mut self) -> Result<(), String> {
        if self.kernel.as_ref().is_none_or(Kernel::is_lost) {
            self.kernel = Kernel::open().ok();
        }
        let Some(kernel) = &self.kernel else { return Err("no netlink socket".to_owned()) };
        let is_due = match &self.tap {
            Ok(tap) => !tap.is_intact(kernel).await,
            Err(missing) => missing.is_due(),
        };
        if is_due {
            // The old device has to go first: the new one has its name.
            self.tap = Err(Missing(String::new(), None));
            let tap = Tap::open(&self.instance, kernel).await;
            self.tap = tap.map_err(|text| Missing(text, Some(Instant::now())));
        }
        // An earlier process may have left the table, with its own number.
        let is_there = self.table.is_ok() && self.counted().is_ok();
        let is_due = match &self.table {
            Ok(()) => true,
            Err(missing) => missing.is_due(),
        };
        if !is_there && is_due {
            self.make_table().await;
        }
        let missing = |part: &Missing| part.0.clone();
        match (&self.tap, &self.table) {
            (Ok(_), Ok(())) => Ok(()),
            (Err(tap), Ok(())) => Err(format!("packets into the mesh: {}", missing(tap))),
            (Ok(_), Err(table)) => Err(format!("packets into the site: {}", missing(table))),
            (Err(tap), Err(table)) => Err(format!("{}; {}", missing(tap), missing(table))),
        }
    }

    /// Has packets enter by the devices of the site.
    pub(super) async fn add_targets(&mut self, lans: &[Lan]) -> Result<(), String> {
        let (Ok(tap), Some(kernel)) = (&mut self.tap, &self.kernel) else { return Ok(()) };
        let mut failed = None;
        for lan in lans {
            failed = tap.add_target(lan.device, kernel).await.err().or(failed);
        }
        match failed {
            None => Ok(()),
            Some(error) => {
                self.tap = Err(Missing(error.clone(), Some(Instant::now())));
                Err(error)
            }
        }
    }

    /// Whether packets can still be sent as if they had arrived by a device.
    pub(super) async fn can_send(&self) -> bool {
        match (&self.tap, &self.kernel) {
            (Ok(tap), Some(kernel)) => tap.is_intact(kernel).await,
            _ => false,
        }
    }

    async fn make_table(&mut self) {
        let devices: BTreeSet<String> = self.egress.devices.values().cloned().collect();
        let mut result = nft::run(&nft::count_script(&self.instance, self.magic, &devices)).await;
        if result.is_err() && !devices.is_empty() {
            // The device may be gone.
            self.egress = Egress::default();
            result =
                nft::run(&nft::count_script(&self.instance, self.magic, &BTreeSet::new())).await;
        }
        self.table = result.map_err(|text| Missing(text, Some(Instant::now())));
    }

    /// Counts at the devices of the site from now on, if another program has rules there.
    pub(super) async fn watch_egress(&mut self, lans: &[Lan]) {
        let rules = self.reader.as_ref().map(|reader| reader.has_egress_rules(&self.instance));
        let mut egress = Egress::default();
        if let Some(Ok(true)) = rules {
            egress.devices = lans.iter().map(|lan| (lan.device, lan.name.clone())).collect();
            egress.neighbours = lans.iter().flat_map(|lan| &lan.neighbours).copied().collect();
        }
        let changed = self.egress.devices != egress.devices;
        self.egress = egress;
        if changed {
            if self.egress.devices.is_empty() {
                // It may be gone already.
                let _ = nft::run(&nft::egress_removal(&self.instance)).await;
            }
            self.make_table().await;
        }
    }

    pub(super) fn generation(&self) -> u32 {
        self.reader.as_ref().and_then(|reader| reader.generation().ok()).unwrap_or_default()
    }

    fn counted(&self) -> io::Result<BTreeSet<u16>> {
        let Some(reader) = &self.reader else { return Err(io::ErrorKind::NotFound.into()) };
        let mut numbers = reader.counted(&self.instance, false)?;
        if !self.egress.devices.is_empty() {
            numbers.extend(reader.counted(&self.instance, true)?);
        }
        Ok(numbers)
    }

    /// The first of the ports for a probe, which tell where it is counted.
    pub(super) fn first_port(&self, probe: &Probe) -> u16 {
        let at_egress = probe.path == Path::In
            && probe.kind != Kind::Echo
            && self.egress.devices.contains_key(&probe.device)
            && self.egress.neighbours.contains(&probe.to);
        if at_egress { nft::FIRST_EGRESS_PORT } else { nft::FIRST_PORT }
    }

    /// Sends probes, and those that are lost once more.
    pub(super) async fn try_twice(&mut self, probes: &[Probe]) -> Vec<(Probe, Seen)> {
        let first = self.try_once(probes).await;
        let lost: Vec<Probe> =
            first.iter().filter(|(_, seen)| *seen == Seen::Lost).map(|(probe, _)| *probe).collect();
        if lost.is_empty() {
            return first;
        }
        let second = self.try_once(&lost).await;
        let arrived = first.into_iter().filter(|(_, seen)| *seen != Seen::Lost);
        arrived.chain(second).collect()
    }

    /// Probes that cannot be measured are left out of the result.
    pub(super) async fn try_once(&mut self, probes: &[Probe]) -> Vec<(Probe, Seen)> {
        while self.arrivals.try_recv().is_ok() {}
        let mut sent: Vec<(Probe, Packet, u16)> = Vec::new();
        let mut seen: BTreeMap<u64, IpAddr> = BTreeMap::new();
        let mut injected = Vec::new();
        for probe in probes {
            let packet = self.packet(probe, probe.kind);
            let Some(bytes) = packet.bytes(self.magic) else { continue };
            if let (true, Some(number)) = (self.can_measure(probe), packet.counted_as(&bytes)) {
                injected.extend(self.send(probe, bytes));
                sent.push((*probe, packet, number));
            }
        }
        self.injector.inject(injected);
        let end = Instant::now() + TIMEOUT;
        while seen.len() < sent.len() && Instant::now() < end {
            if let Ok(Some(Arrival { id, source })) = timeout(STEP, self.arrivals.recv()).await {
                seen.insert(id, source);
                while let Ok(Arrival { id, source }) = self.arrivals.try_recv() {
                    seen.insert(id, source);
                }
            }
            let waits = |(probe, packet, _): &&(Probe, Packet, u16)| {
                probe.path == Path::In && !seen.contains_key(&packet.id)
            };
            if sent.iter().any(|sent| waits(&sent)) {
                let Ok(numbers) = self.counted() else {
                    // Another program has removed the table meanwhile.
                    sent.retain(|(probe, ..)| probe.path != Path::In);
                    continue;
                };
                for (probe, packet, number) in sent.iter().filter(|sent| sent.0.path == Path::In) {
                    if numbers.contains(number) {
                        seen.insert(packet.id, probe.from);
                    }
                }
            }
        }
        let result = |(probe, packet, _): &(Probe, Packet, u16)| {
            (*probe, seen.get(&packet.id).map_or(Seen::Lost, |source| Seen::Arrived(*source)))
        };
        sent.iter().map(result).collect()
    }

    fn can_measure(&self, probe: &Probe) -> bool {
        match probe.path {
            Path::Out | Path::PortIn => self.tap.is_ok(),
            Path::In => self.table.is_ok(),
            Path::PortOut => false,
        }
    }

    /// Sends a packet, or returns its bytes if it has to be written into the TUN.
    pub(super) fn send(&self, probe: &Probe, bytes: Vec<u8>) -> Option<Vec<u8>> {
        if probe.path == Path::In {
            return Some(bytes);
        }
        if let Ok(tap) = &self.tap {
            // What cannot be sent counts as lost.
            let _ = tap.send(probe.device, &bytes);
        }
        None
    }

    /// A packet of a new flow.
    pub(super) fn packet(&mut self, probe: &Probe, kind: Kind) -> Packet {
        self.next_id = self.next_id.wrapping_add(1);
        let id = self.next_id;
        // Each flow has a port of its own, so that the firewall's decisions on flows are made again.
        let from = 32_768 + (id.wrapping_mul(0x9e37_79b9) >> 8) as u16 % 28_000;
        let to = self.first_port(probe) + (id % u64::from(nft::PORTS)) as u16;
        Packet { kind, from: (probe.from, from), to: (probe.to, to), id }
    }
}

impl Missing {
    fn is_due(&self) -> bool {
        self.1.is_none_or(|at| at.elapsed() > RETRY_DELAY)
    }
}
