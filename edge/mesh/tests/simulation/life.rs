//! A random life: what happens to some edges, and the repair at its end.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};

mod ending;

use crate::{
    desired::{Edges, Item, coveted, floating, host, site},
    edge::{Identities, Protection},
    invariants::Violation,
    net::{Cut, FULL_MTU, Weather},
    report::Report,
    traffic::Flow,
    world::{Plan, Sabotage, World},
};

/// What is asked of a life.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) identities: Arc<Identities>,
    pub(crate) protection: Protection,
    pub(crate) seed: u64,
    pub(crate) sabotage: Option<Sabotage>,
    /// Prints what happens.
    pub(crate) aloud: bool,
}

/// Lives the life of a seed, and says what was seen of it, or which invariant did not hold.
pub(crate) fn live(setup: &Setup) -> Result<Report, Violation> {
    let mut life = Life::new(setup);
    life.begin();
    let end = life.length;
    life.run(end)?;
    life.repair()?;
    let converged = life.converge()?;
    life.check_links()?;
    life.check_traffic()?;
    life.check_rest()?;
    let report = Report::new(&life.world, converged);
    life.world.say(format_args!("digest {:016x}", report.digest));
    Ok(report)
}

pub(crate) struct Life {
    pub(crate) world: World,
    rng: StdRng,
    flows: Vec<Flow>,
    length: Duration,
    /// The mean time between mishaps.
    pace: Duration,
    /// An edge that claims another's addresses.
    claimant: Option<Claim>,
    cuts: u32,
    /// Edges that are no members for a while.
    away: Edges,
    /// Whether a certificate was renewed: its links are made anew over a long time.
    renewed: bool,
    /// After the life nothing happens any more.
    over: bool,
}

/// Edge `by` claims a part of `victim`'s site, and that `accomplice` leads to another part of it.
#[derive(Clone, Copy, Debug)]
struct Claim {
    by: usize,
    victim: usize,
    accomplice: usize,
}

impl Life {
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
        let identities = setup.identities.clone();
        let mut world =
            World::new(identities, setup.protection, setup.sabotage, setup.seed, &listening);
        if setup.aloud {
            world.trace = crate::trace::Trace::aloud();
        }
        world.orderly = rng.random();
        let seconds = if edges > 14 { 3..=8 } else { 4..=20 };
        Self {
            world,
            length: Duration::from_secs(rng.random_range(seconds)),
            pace: Duration::from_millis(rng.random_range(150..1500)),
            claimant: None,
            flows: Vec::new(),
            cuts: 0,
            away: Edges::default(),
            renewed: false,
            over: false,
            rng,
        }
    }

    fn begin(&mut self) {
        let count = self.count();
        let (orderly, listening) = (self.world.orderly, self.listening().count());
        self.world.say(format_args!(
            "{count} edges, {listening} with an endpoint, the wire keeps order: {orderly}"
        ));
        for edge in 0..count {
            let known = self.addresses(edge);
            self.world.truth.peers.push(Some(known));
            self.world.truth.routes.extend(site(edge).map(|prefix| (prefix, edge)));
        }
        for number in 0..self.floating() {
            let owner = self.any();
            self.world.truth.routes.insert(floating(number), owner);
        }
        for edge in 0..count {
            self.world.edges[edge].view = self.world.truth.clone();
            let after = self.up_to(1000);
            self.world.plan(after, Plan::Start(edge));
        }
        self.weather();
        self.claim();
        self.make_flows();
        self.world.plan(self.pace, Plan::Mishap);
    }

    /// Lets time pass, with all that happens in it.
    fn run(&mut self, until: Duration) -> Result<(), Violation> {
        while let Some(plan) = self.world.next(until)? {
            self.happen(plan)?;
        }
        Ok(())
    }

    fn happen(&mut self, plan: Plan) -> Result<(), Violation> {
        match plan {
            Plan::Start(edge) => self.start(edge)?,
            Plan::Heal(cut) if !self.world.sabotaged(Sabotage::LastingCut) => {
                self.world.say(format_args!("cut {cut} is healed"));
                self.world.wire.heal(cut);
            }
            Plan::Readmit(edge) => self.readmit(edge),
            Plan::Mishap if !self.over => {
                self.mishap()?;
                let pause = self.pace.mul_f64(self.rng.random_range(0.1..2.0));
                self.world.plan(pause, Plan::Mishap);
            }
            Plan::Flow(index) if !self.over => {
                for _ in 0..self.rng.random_range(1..4) {
                    let read = self.flows[index].read(&mut self.rng, 1500);
                    self.world.send(&self.flows[index], &read)?;
                }
                let pause = self.up_to(600);
                self.world.plan(pause, Plan::Flow(index));
            }
            Plan::Heal(_) | Plan::Mishap | Plan::Flow(_) => {}
        }
        Ok(())
    }

    fn start(&mut self, edge: usize) -> Result<(), Violation> {
        if self.world.edges[edge].mesh.is_some() {
            return Ok(());
        }
        self.world.start(edge);
        self.tell_claims(edge);
        // The controller has what changed meanwhile.
        let later = self.up_to(2000);
        if !self.world.truth.denied.has(edge) {
            self.world.sync_after(later, edge);
        }
        self.world.settle(edge)
    }

    // Mishaps.

    fn mishap(&mut self) -> Result<(), Violation> {
        let edge = self.any();
        match self.rng.random_range(0..16) {
            0 | 1 => self.kill(edge)?,
            2 => self.partition(),
            3 => self.one_way(edge),
            4 | 5 => self.relocate(edge)?,
            6 => self.renew(edge)?,
            7 => self.send_away(edge),
            8 => self.change_mtu(edge),
            9 => self.weather(),
            10 | 11 => self.move_route(),
            12 => self.revoke(edge),
            13 => self.recheck(edge)?,
            _ => self.burst(edge)?,
        }
        Ok(())
    }

    fn kill(&mut self, edge: usize) -> Result<(), Violation> {
        let now = self.world.instant();
        let Some(mesh) = &mut self.world.edges[edge].mesh else { return Ok(()) };
        let gently = self.rng.random_ratio(1, 3);
        if gently {
            mesh.shutdown(now);
            self.world.settle(edge)?;
        }
        let how = if gently { "stops" } else { "is killed" };
        self.world.say(format_args!("{edge} {how}"));
        self.world.kill(edge);
        let away = if self.rng.random() { self.up_to(500) } else { self.up_to(12_000) };
        self.world.plan(away, Plan::Start(edge));
        Ok(())
    }

    fn partition(&mut self) {
        let one = self.some();
        let other = Edges(!one.0);
        self.cut(one, other, true);
    }

    fn one_way(&mut self, edge: usize) {
        let (mut from, mut to) = (Edges::default(), Edges::default());
        from.add(edge);
        to.add(self.any());
        self.cut(from, to, false);
    }

    fn cut(&mut self, from: Edges, to: Edges, both: bool) {
        self.cuts += 1;
        let number = self.cuts;
        let ways: &[(Edges, Edges)] = if both { &[(from, to), (to, from)] } else { &[(from, to)] };
        for &(from, to) in ways {
            self.world.wire.cut(Cut { number, from, to });
            self.world.say(format_args!("cut {number}: from {from:?} nothing gets to {to:?}"));
        }
        let lasts = self.up_to(12_000);
        self.world.plan(lasts, Plan::Heal(number));
    }

    fn relocate(&mut self, edge: usize) -> Result<(), Violation> {
        let address = self.world.readdress(edge);
        self.world.say(format_args!("{edge} moves to {address}"));
        let now = self.world.instant();
        if let Some(mesh) = &mut self.world.edges[edge].mesh {
            mesh.local_address_changed(now);
        }
        if self.world.truth.peers[edge].is_some() {
            let addresses = self.addresses(edge);
            self.world.truth.peers[edge] = Some(addresses);
            self.broadcast(Item::Peer(edge));
        }
        self.world.settle(edge)
    }

    fn renew(&mut self, edge: usize) -> Result<(), Violation> {
        let now = self.world.instant();
        self.world.say(format_args!("{edge} has a new certificate"));
        self.renewed = true;
        if let Some(mesh) = &mut self.world.edges[edge].mesh {
            mesh.credentials_renewed(now);
        }
        self.world.settle(edge)
    }

    fn send_away(&mut self, edge: usize) {
        if self.world.truth.peers[edge].take().is_none() {
            return;
        }
        self.world.say(format_args!("{edge} is removed"));
        self.away.add(edge);
        self.broadcast(Item::Peer(edge));
        let after = self.up_to(4000);
        self.world.plan(after, Plan::Readmit(edge));
    }

    fn readmit(&mut self, edge: usize) {
        if !self.away.has(edge) || self.world.truth.peers[edge].is_some() {
            return;
        }
        self.world.say(format_args!("{edge} is a member again"));
        let addresses = self.addresses(edge);
        self.world.truth.peers[edge] = Some(addresses);
        if !self.over {
            self.broadcast(Item::Peer(edge));
        }
    }

    fn change_mtu(&mut self, edge: usize) {
        let mtu = [FULL_MTU, 1400, 1372, 1252][self.rng.random_range(0..4)];
        self.world.say(format_args!("the line of {edge} carries {mtu} bytes"));
        self.world.wire.mtu[edge] = mtu;
    }

    fn weather(&mut self) {
        let rng = &mut self.rng;
        let late = [0, 20, 300][rng.random_range(0..3)];
        let weather = Weather {
            loss: [0, 0, 10, 50, 200][rng.random_range(0..5)],
            duplication: [0, 20][rng.random_range(0..2)],
            corruption: [0, 5][rng.random_range(0..2)],
            marks: [0, 100][rng.random_range(0..2)],
            late: if self.world.orderly { 0 } else { late },
        };
        self.world.say(format_args!("{weather:?}"));
        self.world.wire.weather = weather;
    }

    fn move_route(&mut self) {
        let prefix = floating(self.rng.random_range(0..self.floating()));
        if self.rng.random_ratio(1, 6) {
            self.world.say(format_args!("{prefix} is nobody's"));
            self.world.truth.routes.remove(&prefix);
        } else {
            let owner = self.any();
            self.world.say(format_args!("{prefix} is {owner}'s"));
            self.world.truth.routes.insert(prefix, owner);
        }
        self.broadcast(Item::Route(prefix));
    }

    fn revoke(&mut self, edge: usize) {
        let denied = self.world.truth.denied;
        if denied.has(edge) || (denied.count() + 1) * 4 > self.count() {
            return;
        }
        self.world.say(format_args!("{edge} is revoked"));
        self.broadcast(Item::Denied(edge));
        self.world.truth.denied.add(edge);
        if self.rng.random() {
            self.world.truth.peers[edge] = None;
            self.broadcast(Item::Peer(edge));
        }
    }

    /// The trust bundle changed in a way that concerns nobody.
    fn recheck(&mut self, edge: usize) -> Result<(), Violation> {
        let now = self.world.instant();
        let Some(mesh) = &mut self.world.edges[edge].mesh else { return Ok(()) };
        mesh.recheck(now, &mut |_| true);
        self.world.settle(edge)
    }

    fn burst(&mut self, edge: usize) -> Result<(), Violation> {
        let Some(index) = self.flows.iter().position(|flow| flow.by == edge) else {
            return Ok(());
        };
        for _ in 0..40 {
            let read = self.flows[index].read(&mut self.rng, 1500);
            self.world.send(&self.flows[index], &read)?;
        }
        Ok(())
    }

    // Attacks.

    fn claim(&mut self) {
        let must = self.world.sabotaged(Sabotage::BelieveClaims);
        if !must && !self.rng.random_ratio(1, 3) {
            return;
        }
        let by = self.any();
        let victim = (by + 1) % self.count();
        let accomplice = (by + 2) % self.count();
        self.claimant = Some(Claim { by, victim, accomplice });
        self.world.say(format_args!("{:?}", self.claimant));
    }

    /// The claimant's own core holds nothing back.
    fn tell_claims(&mut self, edge: usize) {
        let Some(claim) = self.claimant else { return };
        let believed = self.world.sabotaged(Sabotage::BelieveClaims);
        let identities = self.world.identities();
        let name = |edge: usize| &identities.edges[edge].name;
        let Some(mesh) = &mut self.world.edges[edge].mesh else { return };
        if edge == claim.by || believed {
            mesh.set_prefix(coveted(claim.victim), name(claim.by));
        }
        if edge == claim.by {
            mesh.set_prefix(coveted(claim.by), name(claim.accomplice));
        }
    }

    // Traffic.

    fn make_flows(&mut self) {
        let count = self.count();
        for edge in 0..count.min(12) {
            let from = site(edge)[self.rng.random_range(0..2)];
            let to = site(self.other(edge))[usize::from(from.addr().is_ipv6())];
            self.flow(edge, host(from, 1), host(to, 1));
            let number = self.rng.random_range(0..self.floating());
            self.flow(edge, host(site(edge)[0], 2), host(floating(number), 1));
        }
        for number in 0..self.floating().min(6) {
            let by = self.world.truth.routes[&floating(number)];
            let to = site(self.other(by))[0];
            self.flow(by, host(floating(number), 3), host(to, 3));
        }
        if let Some(Claim { by, victim, accomplice }) = self.claimant {
            let to = host(site(accomplice)[0], 4);
            self.flow(by, host(coveted(victim), 4), to);
            self.flow(by, host(site(by)[0], 4), host(coveted(by), 4));
        }
        for index in 0..self.flows.len() {
            let after = self.up_to(1500);
            self.world.plan(after, Plan::Flow(index));
        }
    }

    fn flow(&mut self, by: usize, from: std::net::IpAddr, to: std::net::IpAddr) -> usize {
        let number = self.world.checker.flow();
        self.flows.push(Flow::new(number, by, (from, to), &mut self.rng));
        self.flows.len() - 1
    }

    // Who is there.

    fn allowed(&self) -> Vec<usize> {
        (0..self.count()).filter(|&edge| !self.world.truth.denied.has(edge)).collect()
    }

    fn listening(&self) -> Edges {
        let mut listening = Edges::default();
        self.world
            .edges
            .iter()
            .filter(|edge| edge.listens)
            .for_each(|edge| listening.add(edge.index));
        listening
    }

    // Draws.

    /// Has everybody who is allowed to learn it sooner or later.
    fn broadcast(&mut self, item: Item) {
        let most = if self.rng.random() { 50 } else { 2000 };
        for edge in self.allowed() {
            let after = self.up_to(most);
            self.world.inform(after, edge, item);
        }
    }

    /// What others are told of where an edge is, sometimes with an address that is dead.
    fn addresses(&mut self, edge: usize) -> Vec<std::net::SocketAddr> {
        let edge = &self.world.edges[edge];
        if !edge.listens {
            return Vec::new();
        }
        let dead = std::net::SocketAddr::from(([192, 0, 2, 1], 58423));
        if self.rng.random_ratio(1, 5) { vec![dead, edge.address] } else { vec![edge.address] }
    }

    fn count(&self) -> usize {
        self.world.edges.len()
    }

    fn floating(&self) -> usize {
        (self.count() / 2).max(2)
    }

    fn any(&mut self) -> usize {
        self.rng.random_range(0..self.count())
    }

    fn other(&mut self, edge: usize) -> usize {
        (edge + self.rng.random_range(1..self.count())) % self.count()
    }

    fn some(&mut self) -> Edges {
        Edges(self.rng.random())
    }

    fn up_to(&mut self, milliseconds: u64) -> Duration {
        Duration::from_micros(self.rng.random_range(0..milliseconds * 1000))
    }
}
