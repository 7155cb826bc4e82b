//! Several controllers on an etcd of three members: what the loss of each costs.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use cframe_testbed::Pinger;
use cframe_testbed::deployment::Edge;

use crate::cluster::etcd::Member;
use crate::cluster::lab::{Cluster, connected, version, wait_connected};
use crate::cluster::observers::{Acknowledged, keep_editing, watch_version};
use crate::lab::{
    MS, SECOND, TIMEOUT, alone, figure, none_lost, ping, start_pings, wait_for, within,
};

const EDITS: usize = 20;
/// From a fault of etcd until each controller acknowledges a write.
const WRITE_BOUND: Duration = Duration::from_secs(3);
/// From an election until then, if the election takes longer than that.
const ELECTION_BOUND: Duration = SECOND;
/// From the stop of a member until the edges have what was written.
const FROZEN_BOUND: Duration = Duration::from_secs(10);
/// The index of the host that is cut off. The operator is on the first.
const CUT: usize = 1;

#[test]
fn an_edit_through_one_controller_reaches_the_others_edges_and_the_kill_of_a_controller_costs_no_ping()
 {
    let mut cluster = Cluster::start("two", 2, alone());
    let mut edges = [cluster.edge(1), cluster.edge(1)];
    edges.iter_mut().for_each(|edge| edge.wait_links(1).unwrap());
    let pinger = ping(&edges[0], &edges[1], 10 * MS);

    // The first edge's workload answers for 10.200.0.0/16.
    let workload = edges[0].site().workload();
    workload.ip("route add local 10.200.0.0/16 dev lo").unwrap();
    let host = edges[0].host();
    host.ip(&format!("route add 10.200.0.0/16 via {}", workload.address())).unwrap();
    let mut took: Vec<Duration> = (0..EDITS)
        .map(|edit| {
            let target: IpAddr = format!("10.200.{edit}.10").parse().unwrap();
            let pinger = start_pings(edges[1].site().workload(), target, MS);
            let (route, cidr) = (format!("r{edit}"), format!("10.200.{edit}.0/24"));
            let add = ["route", "add", &route, "-n", "prod", "--cidr", &cidr, "--edge", "e1"];
            let start = Instant::now();
            cluster.ctl(0, &add).success().unwrap();
            pinger.reply_after(start, TIMEOUT).unwrap()
        })
        .collect();
    took.sort_unstable();
    let [median, p95] = [EDITS / 2, EDITS * 95 / 100 - 1].map(|at| took[at]);
    figure(
        "route add through one controller → first reply between edges of another, 20 edits",
        format_args!("median {median:.1?}, p95 {p95:.1?} (bound p95 200ms)"),
    );
    assert!(p95 <= 200 * MS, "p95 {p95:?}");

    let first = cluster.hosts[0].address();
    let killed = Instant::now();
    cluster.deployment.controllers()[1].kill9().unwrap();
    edges.iter().for_each(|edge| wait_connected(edge, &[first], TIMEOUT));
    within("a controller killed → its edges with another", killed.elapsed(), 5 * SECOND);
    cluster.deployment.controllers()[1].start().unwrap();
    let revision = cluster.revision(1);
    cluster.wait_revision(&edges, revision, TIMEOUT);
    none_lost("pings lost during edits and the kill of a controller, every 10 ms", vec![pinger]);
}

/// Waits for a member that meets the condition; returns its index.
fn wait_member(cluster: &Cluster, condition: impl Fn(&Member) -> bool) -> usize {
    let mut found = None;
    let waited = wait_for(TIMEOUT, || {
        found = cluster.members.iter().position(&condition);
        found.is_some()
    });
    waited.expect("such a member");
    found.expect("waited for")
}

/// Waits until a member has another leader than the one with the id `lost`. An election takes etcd 1 to 2 s, and as
/// long again after a split vote.
fn wait_election(cluster: &Cluster, lost: u64) -> Instant {
    wait_member(cluster, |member| member.leader().is_some_and(|leader| leader != lost));
    Instant::now()
}

/// Waits until every controller has acknowledged another write.
fn wait_for_writes(acks: &[Acknowledged]) {
    for acknowledged in acks {
        acknowledged.wait_after(Instant::now(), TIMEOUT);
    }
}

/// Checks that every controller acknowledges writes again, and waits until every edge has them. `since` is the time of
/// the fault, `led` that of the election after it.
fn check_recovery(
    what: &str,
    cluster: &Cluster,
    edges: &[Edge],
    acks: &[Acknowledged],
    [since, led]: [Instant; 2],
) {
    check_writes(what, acks.iter(), [since, led]);
    cluster.wait_revision(edges, cluster.revision(0), TIMEOUT);
}

/// Checks that each of these controllers acknowledges a write within the bound, which is longer if etcd's election was.
fn check_writes<'a>(
    what: &str,
    acks: impl Iterator<Item = &'a Acknowledged>,
    [since, led]: [Instant; 2],
) {
    let took = acks.map(|acknowledged| acknowledged.wait_after(since, TIMEOUT)).max().unwrap();
    let election = led - since;
    let bound = WRITE_BOUND.max(election + ELECTION_BOUND);
    figure(
        &format!("{what} → a write by each controller that is left"),
        format_args!("{took:.1?}, another leader after {election:.1?} (bound {bound:.1?})"),
    );
    assert!(took <= bound, "{what}: {took:?} > {bound:?}");
}

#[test]
fn after_each_fault_of_etcd_writes_work_again_and_no_edge_sees_an_older_state() {
    let mut cluster = Cluster::start("faults", 3, alone());
    let edges = [0, 1, 2].map(|controller| cluster.edge(controller));
    let acks: [Acknowledged; 3] = Default::default();
    let cluster = &cluster;
    let versions_seen: usize = std::thread::scope(|scope| {
        let watchers: Vec<_> = edges.iter().map(|edge| watch_version(scope, edge)).collect();
        let editors: Vec<_> =
            (0..3).map(|n| keep_editing(scope, cluster, n, &edges[n], &acks[n])).collect();
        for fault in [cut_off_host, kill_leader, cut_off_leader, freeze_member, restart_all] {
            wait_for_writes(&acks);
            fault(cluster, &edges, &acks);
        }
        drop(editors);
        let ends = watchers.into_iter().map(|(stop, thread)| {
            drop(stop);
            thread.join().unwrap()
        });
        ends.sum()
    });
    let newest = cluster.revision(0);
    assert_eq!([1, 2].map(|controller| cluster.revision(controller)), [newest; 2]);
    cluster.wait_revision(&edges, newest, TIMEOUT);
    assert!(edges.iter().all(|edge| version(edge).unwrap().namespace == newest));
    let writes: usize = acks.iter().map(Acknowledged::count).sum();
    figure(
        "edges that saw an older state during faults of etcd",
        format_args!("0 in {versions_seen} queries of 3 edges, {writes} writes (bound 0)"),
    );
}

/// Cuts off the host of a controller and of etcd's leader.
fn cut_off_host(cluster: &Cluster, edges: &[Edge], acks: &[Acknowledged]) {
    let leader = wait_member(cluster, Member::is_leader);
    if leader != CUT {
        cluster.members[leader].transfer_leadership(&cluster.members[CUT]);
        assert_eq!(wait_member(cluster, Member::is_leader), CUT);
        wait_for_writes(acks);
    }
    let host = &cluster.hosts[CUT];
    assert_eq!(connected(&edges[CUT]), Some(host.address()));
    let lost = cluster.members[CUT].id();
    host.uplink().cut(true).unwrap();
    let since = Instant::now();
    let led = wait_election(cluster, lost);
    let others: Vec<usize> = (0..3).filter(|n| *n != CUT).collect();
    let what = "the host of a controller and of etcd's leader cut off";
    check_writes(what, others.iter().map(|n| &acks[*n]), [since, led]);
    let addresses: Vec<IpAddr> = others.iter().map(|n| cluster.hosts[*n].address()).collect();
    wait_connected(&edges[CUT], &addresses, TIMEOUT);
    within("… → its edge with another controller", since.elapsed(), 5 * SECOND);
    cluster.wait_revision(edges, cluster.revision(0), TIMEOUT);

    host.uplink().cut(false).unwrap();
    let took = acks[CUT].wait_after(Instant::now(), TIMEOUT);
    figure("… and reached again → a write by its controller", format_args!("{took:.1?}"));
    cluster.wait_revision(edges, cluster.revision(CUT), TIMEOUT);
    cluster.members[CUT].wait_healthy();
}

fn kill_leader(cluster: &Cluster, edges: &[Edge], acks: &[Acknowledged]) {
    let leader = &cluster.members[wait_member(cluster, Member::is_leader)];
    let (lost, since) = (leader.id(), Instant::now());
    leader.kill();
    let led = wait_election(cluster, lost);
    check_recovery("etcd's leader killed", cluster, edges, acks, [since, led]);
    leader.start();
    leader.wait_healthy();
}

/// Cuts off etcd's leader from the other members.
fn cut_off_leader(cluster: &Cluster, edges: &[Edge], acks: &[Acknowledged]) {
    let leader = &cluster.members[wait_member(cluster, Member::is_leader)];
    let (lost, since) = (leader.id(), Instant::now());
    leader.cut_from_peers(true);
    let led = wait_election(cluster, lost);
    check_recovery("etcd's leader cut off from the others", cluster, edges, acks, [since, led]);
    leader.cut_from_peers(false);
    leader.wait_healthy();
}

/// Stops the member with the most watches without closing its connections, and compacts the revisions that it has not
/// sent.
fn freeze_member(cluster: &Cluster, edges: &[Edge], acks: &[Acknowledged]) {
    let watches: Vec<u64> = cluster.members.iter().map(Member::watches).collect();
    let most = (0..3).max_by_key(|n| watches[*n]).unwrap();
    let member = &cluster.members[most];
    let (is_leader, lost, since) = (member.is_leader(), member.id(), Instant::now());
    member.freeze();
    let led = if is_leader { wait_election(cluster, lost) } else { since };
    check_writes("a member of etcd stopped", acks.iter(), [since, led]);
    let other = &cluster.members[(most + 1) % 3];
    let revision = other.revision().to_string();
    let compacted = other.etcdctl(&["compact", &revision]).output().unwrap();
    assert!(compacted.status.success(), "{compacted:?}");
    let written = cluster.revision((most + 1) % 3);
    cluster.wait_revision(edges, written, 2 * FROZEN_BOUND);
    within(
        "a watched member of etcd stopped, its revisions compacted → what was written is at all edges",
        since.elapsed(),
        FROZEN_BOUND,
    );
    member.thaw();
    member.wait_healthy();
}

fn restart_all(cluster: &Cluster, edges: &[Edge], acks: &[Acknowledged]) {
    cluster.members.iter().for_each(Member::kill);
    cluster.members.iter().for_each(Member::start);
    let led = wait_election(cluster, 0);
    check_recovery("all of etcd restarted, a majority up", cluster, edges, acks, [led; 2]);
}

#[test]
fn a_rolling_restart_of_controllers_and_etcd_costs_no_ping() {
    let mut cluster = Cluster::start("rolling", 3, alone());
    let mut edges: Vec<Edge> = (0..6).map(|n| cluster.edge(n % 3)).collect();
    edges.iter_mut().for_each(|edge| edge.wait_links(5).unwrap());
    let pairs = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (0, 3)];
    let pingers: Vec<Pinger> =
        pairs.iter().map(|(a, b)| ping(&edges[*a], &edges[*b], 10 * MS)).collect();
    let start = Instant::now();
    for n in 0..3 {
        cluster.deployment.controllers()[n].restart().unwrap();
        cluster.deployment.wait_in_sync("prod", 6).unwrap();
    }
    for member in &cluster.members {
        member.stop();
        member.start();
        member.wait_healthy();
    }
    cluster.deployment.wait_in_sync("prod", 6).unwrap();
    let took = start.elapsed();
    none_lost(
        &format!(
            "pings lost in a rolling restart of 3 controllers and 3 members of etcd in {took:.1?}, 7 pairs of 6 edges every 10 ms"
        ),
        pingers,
    );
}
