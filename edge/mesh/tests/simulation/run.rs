//! One random run: faults and changes of a few edges, and the repair at its end.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

mod ending;

use crate::{
    desired::{Edges, Item, claimed, floating, host, site},
    invariants::Violation,
    report::Report,
    setup::{Protection, Sabotage, Setup},
    simulation::{Plan, Simulation},
    traffic::Flow,
    wire::{Cut, FULL_MTU, FaultRates},
};

/// Runs one seed; the error is the invariant that did not hold.
pub(crate) fn run(setup: &Setup) -> Result<Report, Violation> {
    let mut run = Run::new(setup);
    run.prepare();
    let end = run.length;
    run.run_until(end)?;
    run.repair()?;
    let converged = run.converge()?;
    run.check_links()?;
    run.check_traffic()?;
    run.check_memory()?;
    let report = Report::new(&run.sim, converged);
    run.sim.log(format_args!("digest {:016x}", report.digest));
    Ok(report)
}

struct Run {
    sim: Simulation,
    rng: StdRng,
    flows: Vec<Flow>,
    length: Duration,
    /// The mean time between faults.
    fault_interval: Duration,
    /// An edge that claims another's addresses.
    claimant: Option<Claim>,
    cuts: u32,
    /// Edges that were removed from the desired state for a while.
    removed: Edges,
    /// Whether a certificate was renewed: its links are replaced over a long time.
    renewed: bool,
    /// Whether the repair has started: there are no more faults.
    repaired: bool,
}

/// Edge `by` claims to own a part of `victim`'s site, and sends packets for a part of its own site
/// to `accomplice`.
#[derive(Clone, Copy, Debug)]
struct Claim {
    by: usize,
    victim: usize,
    accomplice: usize,
}

impl Run {
    fn new(setup: &Setup) -> Self {
        let mut rng = StdRng::seed_from_u64(setup.seed);
        let edges = match (setup.protection, setup.seed % 10) {
            (Protection::Tls, _) => rng.random_range(3..=6),
            (Protection::Null, 0..5) => rng.random_range(3..=6),
            (Protection::Null, 5..8) => rng.random_range(7..=14),
            (Protection::Null, _) => rng.random_range(15..=30),
        };
        let mut listening: Vec<_> = (0..edges).map(|_| rng.random_ratio(7, 10)).collect();
        listening[rng.random_range(0..edges)] = true;
        let mut sim = Simulation::new(setup, &listening);
        sim.wire.keeps_order = rng.random();
        let seconds = if edges > 14 { 3..=8 } else { 4..=20 };
        Self {
            sim,
            length: Duration::from_secs(rng.random_range(seconds)),
            fault_interval: Duration::from_millis(rng.random_range(150..1500)),
            claimant: None,
            flows: Vec::new(),
            cuts: 0,
            removed: Edges::default(),
            renewed: false,
            repaired: false,
            rng,
        }
    }

    fn prepare(&mut self) {
        let count = self.count();
        let (keeps_order, listening) = (self.sim.wire.keeps_order, self.listening().count());
        self.sim.log(format_args!(
            "{count} edges, {listening} with an endpoint, the wire keeps order: {keeps_order}"
        ));
        for edge in 0..count {
            let known = self.advertised(edge);
            self.sim.desired.peers.push(Some(known));
            self.sim.desired.routes.extend(site(edge).map(|prefix| (prefix, edge)));
        }
        for number in 0..self.floating() {
            let owner = self.any_edge();
            self.sim.desired.routes.insert(floating(number), owner);
        }
        for edge in 0..count {
            self.sim.edges[edge].known = self.sim.desired.clone();
            let after = self.up_to(1000);
            self.sim.plan(after, Plan::Start(edge));
        }
        self.change_fault_rates();
        self.add_claim();
        self.make_flows();
        self.sim.plan(self.fault_interval, Plan::Fault);
    }

    fn run_until(&mut self, until: Duration) -> Result<(), Violation> {
        while let Some(plan) = self.sim.next(until)? {
            self.execute(plan)?;
        }
        Ok(())
    }

    fn execute(&mut self, plan: Plan) -> Result<(), Violation> {
        match plan {
            Plan::Start(edge) => self.start(edge)?,
            Plan::RepairCut(cut) if !self.sim.has(Sabotage::NeverRepair) => {
                self.sim.log(format_args!("cut {cut} is repaired"));
                self.sim.wire.repair_cut(cut);
            }
            Plan::AddMember(edge) => self.add_member(edge),
            Plan::Fault if !self.repaired => {
                self.inject_fault()?;
                let pause = self.fault_interval.mul_f64(self.rng.random_range(0.1..2.0));
                self.sim.plan(pause, Plan::Fault);
            }
            Plan::Flow(index) if !self.repaired => {
                for _ in 0..self.rng.random_range(1..4) {
                    let read = self.flows[index].next_read(&mut self.rng, 1500);
                    self.sim.send(&self.flows[index], &read)?;
                }
                let pause = self.up_to(600);
                self.sim.plan(pause, Plan::Flow(index));
            }
            Plan::RepairCut(_) | Plan::Fault | Plan::Flow(_) => {}
        }
        Ok(())
    }

    fn start(&mut self, edge: usize) -> Result<(), Violation> {
        if self.sim.edges[edge].mesh.is_some() {
            return Ok(());
        }
        self.sim.start(edge);
        self.apply_claim(edge);
        // The controller sends what changed meanwhile.
        let later = self.up_to(2000);
        if !self.sim.desired.denied.contains(edge) {
            self.sim.sync_after(later, edge);
        }
        self.sim.process_output(edge)
    }

    // Faults and changes.

    fn inject_fault(&mut self) -> Result<(), Violation> {
        let edge = self.any_edge();
        match self.rng.random_range(0..16) {
            0 | 1 => self.kill(edge)?,
            2 => self.partition(),
            3 => self.cut_one_way(edge),
            4 | 5 => self.change_address(edge)?,
            6 => self.renew_certificate(edge)?,
            7 => self.remove_member(edge),
            8 => self.change_mtu(edge),
            9 => self.change_fault_rates(),
            10 | 11 => self.move_route(),
            12 => self.revoke(edge),
            13 => self.recheck(edge)?,
            _ => self.send_burst(edge)?,
        }
        Ok(())
    }

    fn kill(&mut self, edge: usize) -> Result<(), Violation> {
        let now = self.sim.instant();
        let Some(mesh) = &mut self.sim.edges[edge].mesh else { return Ok(()) };
        let graceful = self.rng.random_ratio(1, 3);
        if graceful {
            mesh.shutdown(now);
            self.sim.process_output(edge)?;
        }
        let how = if graceful { "stops" } else { "is killed" };
        self.sim.log(format_args!("{edge} {how}"));
        self.sim.kill(edge);
        let pause = if self.rng.random() { self.up_to(500) } else { self.up_to(12_000) };
        self.sim.plan(pause, Plan::Start(edge));
        Ok(())
    }

    fn partition(&mut self) {
        let one = self.some_edges();
        let other = Edges(!one.0);
        self.cut(one, other, true);
    }

    fn cut_one_way(&mut self, edge: usize) {
        let (mut from, mut to) = (Edges::default(), Edges::default());
        from.insert(edge);
        to.insert(self.any_edge());
        self.cut(from, to, false);
    }

    fn cut(&mut self, from: Edges, to: Edges, both: bool) {
        self.cuts += 1;
        let number = self.cuts;
        let ways: &[(Edges, Edges)] = if both { &[(from, to), (to, from)] } else { &[(from, to)] };
        for &(from, to) in ways {
            self.sim.wire.add_cut(Cut { number, from, to });
            self.sim.log(format_args!("cut {number}: nothing arrives from {from:?} at {to:?}"));
        }
        let duration = self.up_to(12_000);
        self.sim.plan(duration, Plan::RepairCut(number));
    }

    fn change_address(&mut self, edge: usize) -> Result<(), Violation> {
        let address = self.sim.readdress(edge);
        self.sim.log(format_args!("{edge} moves to {address}"));
        let now = self.sim.instant();
        if let Some(mesh) = &mut self.sim.edges[edge].mesh {
            mesh.local_address_changed(now);
        }
        if self.sim.desired.peers[edge].is_some() {
            let addresses = self.advertised(edge);
            self.sim.desired.peers[edge] = Some(addresses);
            self.broadcast(Item::Peer(edge));
        }
        self.sim.process_output(edge)
    }

    fn renew_certificate(&mut self, edge: usize) -> Result<(), Violation> {
        let now = self.sim.instant();
        self.sim.log(format_args!("{edge} has a new certificate"));
        self.renewed = true;
        if let Some(mesh) = &mut self.sim.edges[edge].mesh {
            mesh.credentials_renewed(now);
        }
        self.sim.process_output(edge)
    }

    fn remove_member(&mut self, edge: usize) {
        if self.sim.desired.peers[edge].take().is_none() {
            return;
        }
        self.sim.log(format_args!("{edge} is removed"));
        self.removed.insert(edge);
        self.broadcast(Item::Peer(edge));
        let after = self.up_to(4000);
        self.sim.plan(after, Plan::AddMember(edge));
    }

    fn add_member(&mut self, edge: usize) {
        if !self.removed.contains(edge) || self.sim.desired.peers[edge].is_some() {
            return;
        }
        self.sim.log(format_args!("{edge} is a member again"));
        let addresses = self.advertised(edge);
        self.sim.desired.peers[edge] = Some(addresses);
        if !self.repaired {
            self.broadcast(Item::Peer(edge));
        }
    }

    fn change_mtu(&mut self, edge: usize) {
        let mtu = [FULL_MTU, 1400, 1372, 1252][self.rng.random_range(0..4)];
        self.sim.log(format_args!("the line of {edge} carries {mtu} bytes"));
        self.sim.wire.mtu[edge] = mtu;
    }

    fn change_fault_rates(&mut self) {
        let rng = &mut self.rng;
        let late = [0, 20, 300][rng.random_range(0..3)];
        let rates = FaultRates {
            loss: [0, 0, 10, 50, 200][rng.random_range(0..5)],
            duplication: [0, 20][rng.random_range(0..2)],
            corruption: [0, 5][rng.random_range(0..2)],
            marks: [0, 100][rng.random_range(0..2)],
            late: if self.sim.wire.keeps_order { 0 } else { late },
        };
        self.sim.log(format_args!("{rates:?}"));
        self.sim.wire.rates = rates;
    }

    fn move_route(&mut self) {
        let prefix = floating(self.rng.random_range(0..self.floating()));
        if self.rng.random_ratio(1, 6) {
            self.sim.log(format_args!("{prefix} has no owner"));
            self.sim.desired.routes.remove(&prefix);
        } else {
            let owner = self.any_edge();
            self.sim.log(format_args!("{prefix} belongs to {owner}"));
            self.sim.desired.routes.insert(prefix, owner);
        }
        self.broadcast(Item::Route(prefix));
    }

    fn revoke(&mut self, edge: usize) {
        let denied = self.sim.desired.denied;
        if denied.contains(edge) || (denied.count() + 1) * 4 > self.count() {
            return;
        }
        self.sim.log(format_args!("{edge} is revoked"));
        self.broadcast(Item::Denied(edge));
        self.sim.desired.denied.insert(edge);
        if self.rng.random() {
            self.sim.desired.peers[edge] = None;
            self.broadcast(Item::Peer(edge));
        }
    }

    /// The trust bundle changed without consequences for any link.
    fn recheck(&mut self, edge: usize) -> Result<(), Violation> {
        let now = self.sim.instant();
        let Some(mesh) = &mut self.sim.edges[edge].mesh else { return Ok(()) };
        mesh.recheck(now, &mut |_| true);
        self.sim.process_output(edge)
    }

    fn send_burst(&mut self, edge: usize) -> Result<(), Violation> {
        let Some(index) = self.flows.iter().position(|flow| flow.by == edge) else {
            return Ok(());
        };
        for _ in 0..40 {
            let read = self.flows[index].next_read(&mut self.rng, 1500);
            self.sim.send(&self.flows[index], &read)?;
        }
        Ok(())
    }

    // Attacks.

    fn add_claim(&mut self) {
        let must = self.sim.has(Sabotage::BelieveClaims);
        if !must && !self.rng.random_ratio(1, 3) {
            return;
        }
        let by = self.any_edge();
        let victim = (by + 1) % self.count();
        let accomplice = (by + 2) % self.count();
        self.claimant = Some(Claim { by, victim, accomplice });
        self.sim.log(format_args!("{:?}", self.claimant));
    }

    /// Configures the core of the claimant, which would drop the wrong packets otherwise.
    fn apply_claim(&mut self, edge: usize) {
        let Some(claim) = self.claimant else { return };
        let believed = self.sim.has(Sabotage::BelieveClaims);
        let identities = self.sim.setup.identities.clone();
        let name = |edge: usize| &identities.edges[edge].name;
        let Some(mesh) = &mut self.sim.edges[edge].mesh else { return };
        if edge == claim.by || believed {
            mesh.set_prefix(claimed(claim.victim), name(claim.by));
        }
        if edge == claim.by {
            mesh.set_prefix(claimed(claim.by), name(claim.accomplice));
        }
    }

    // Traffic.

    fn make_flows(&mut self) {
        let count = self.count();
        for edge in 0..count.min(12) {
            let from = site(edge)[self.rng.random_range(0..2)];
            let to = site(self.other_edge(edge))[usize::from(from.addr().is_ipv6())];
            self.add_flow(edge, host(from, 1), host(to, 1));
            let number = self.rng.random_range(0..self.floating());
            self.add_flow(edge, host(site(edge)[0], 2), host(floating(number), 1));
        }
        for number in 0..self.floating().min(6) {
            let by = self.sim.desired.routes[&floating(number)];
            let to = site(self.other_edge(by))[0];
            self.add_flow(by, host(floating(number), 3), host(to, 3));
        }
        if let Some(Claim { by, victim, accomplice }) = self.claimant {
            let to = host(site(accomplice)[0], 4);
            self.add_flow(by, host(claimed(victim), 4), to);
            self.add_flow(by, host(site(by)[0], 4), host(claimed(by), 4));
        }
        for index in 0..self.flows.len() {
            let after = self.up_to(1500);
            self.sim.plan(after, Plan::Flow(index));
        }
    }

    fn add_flow(&mut self, by: usize, from: std::net::IpAddr, to: std::net::IpAddr) -> usize {
        let number = self.sim.checker.add_flow();
        self.flows.push(Flow::new(number, by, (from, to), &mut self.rng));
        self.flows.len() - 1
    }

    // Sets of edges.

    fn allowed(&self) -> Vec<usize> {
        (0..self.count()).filter(|&edge| !self.sim.desired.denied.contains(edge)).collect()
    }

    fn listening(&self) -> Edges {
        let mut listening = Edges::default();
        self.sim
            .edges
            .iter()
            .filter(|edge| edge.listens)
            .for_each(|edge| listening.insert(edge.index));
        listening
    }

    /// Plans that all edges that are not revoked learn a change.
    fn broadcast(&mut self, item: Item) {
        let max = if self.rng.random() { 50 } else { 2000 };
        for edge in self.allowed() {
            let after = self.up_to(max);
            self.sim.learn_after(after, edge, item);
        }
    }

    /// The addresses of an edge in the desired state; sometimes one that does not work comes first.
    fn advertised(&mut self, edge: usize) -> Vec<std::net::SocketAddr> {
        let edge = &self.sim.edges[edge];
        if !edge.listens {
            return Vec::new();
        }
        let dead = std::net::SocketAddr::from(([192, 0, 2, 1], 58423));
        if self.rng.random_ratio(1, 5) { vec![dead, edge.address] } else { vec![edge.address] }
    }

    fn count(&self) -> usize {
        self.sim.edges.len()
    }

    fn floating(&self) -> usize {
        (self.count() / 2).max(2)
    }

    fn any_edge(&mut self) -> usize {
        self.rng.random_range(0..self.count())
    }

    fn other_edge(&mut self, edge: usize) -> usize {
        (edge + self.rng.random_range(1..self.count())) % self.count()
    }

    fn some_edges(&mut self) -> Edges {
        Edges(self.rng.random())
    }

    fn up_to(&mut self, milliseconds: u64) -> Duration {
        Duration::from_micros(self.rng.random_range(0..milliseconds * 1000))
    }
}
