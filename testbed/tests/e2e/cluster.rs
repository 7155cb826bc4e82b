//! Several controllers on an etcd of three members: what the loss of each costs.

mod etcd;
mod observers;
mod world;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use cframe_testbed::deployment::Edge;
use cframe_testbed::{Pinger, wait_until};
use serde_json::Value;

use crate::world::{MS, PATIENCE, SECOND, alone, figure, ping, pinging, shared, within};
use etcd::Member;
use observers::{Acknowledged, edit, watch_version};
use world::{Cluster, connected, none_lost, version, wait_at};

const EDITS: usize = 20;
/// Bounds of what etcd's faults may cost.
const WRITES: Duration = Duration::from_secs(3);
const NOTICED: Duration = Duration::from_secs(10);
/// How soon after an election that took longer than that.
const ELECTED: Duration = SECOND;

#[test]
fn an_edit_through_one_controller_is_at_the_others_edges_and_a_killed_ones_edges_move_without_a_lost_ping()
 {
    let mut cluster = Cluster::start("two", 2, alone());
    let mut edges = [cluster.edge(1), cluster.edge(1)];
    edges.iter_mut().for_each(|edge| edge.wait_links(1).unwrap());
    let pinger = ping(&edges[0], &edges[1], 10 * MS);

    // The first's workload answers for 10.200.0.0/16.
    let workload = edges[0].site().workload();
    workload.ip("route add local 10.200.0.0/16 dev lo").unwrap();
    let host = edges[0].host();
    host.ip(&format!("route add 10.200.0.0/16 via {}", workload.address())).unwrap();
    let mut took: Vec<Duration> = (0..EDITS)
        .map(|edit| {
            let target: IpAddr = format!("10.200.{edit}.10").parse().unwrap();
            let replies = pinging(edges[1].site().workload(), target, MS);
            let (route, cidr) = (format!("r{edit}"), format!("10.200.{edit}.0/24"));
            let add = ["route", "add", &route, "-n", "prod", "--cidr", &cidr, "--edge", "e1"];
            let start = Instant::now();
            cluster.ctl(0, &add).success().unwrap();
            replies.reply_after(start, PATIENCE).unwrap()
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
    edges.iter().for_each(|edge| _ = wait_at(edge, &[first], PATIENCE));
    within("a controller killed → its edges with another", killed.elapsed(), 5 * SECOND);
    cluster.deployment.controllers()[1].start().unwrap();
    let revision = cluster.revision(1);
    cluster.wait_revision(&edges, revision, PATIENCE);
    none_lost("pings lost during edits and the kill of a controller, every 10 ms", vec![pinger]);
}

/// The index of a member for which this holds, once there is one.
fn find(cluster: &Cluster, which: impl Fn(&Member) -> bool) -> usize {
    let mut found = None;
    let looked = wait_until(PATIENCE, || {
        found = cluster.members.iter().position(&which);
        found.is_some()
    });
    looked.expect("such a member");
    found.expect("looked for")
}

/// Waits until the others have another leader than the member that they have lost: etcd's own affair, of 1 to 2 s and
/// as much again after a split vote.
fn another_leads(cluster: &Cluster, lost: u64) -> Instant {
    let leads = |member: &Member| member.leader().is_some_and(|leader| leader != lost);
    find(cluster, leads);
    Instant::now()
}

/// Writes are acknowledged again by every controller, and are at every edge.
fn recovered(
    what: &str,
    cluster: &Cluster,
    edges: &[Edge],
    acks: &[Acknowledged],
    [since, led]: [Instant; 2],
) {
    written_by(what, acks.iter(), [since, led]);
    cluster.wait_revision(edges, cluster.revision(0), PATIENCE);
}

/// Each acknowledges a write within the bound; or, where etcd's election took most of that, soon after it.
fn written_by<'a>(
    what: &str,
    acks: impl Iterator<Item = &'a Acknowledged>,
    [since, led]: [Instant; 2],
) {
    let took = acks.map(|acknowledged| acknowledged.after(since, PATIENCE)).max().unwrap();
    let election = led - since;
    let bound = WRITES.max(election + ELECTED);
    figure(
        &format!("{what} → a write by each controller that is left"),
        format_args!("{took:.1?}, another leader after {election:.1?} (bound {bound:.1?})"),
    );
    assert!(took <= bound, "{what}: {took:?} > {bound:?}");
}

#[test]
fn whatever_happens_to_etcd_writes_come_back_and_no_edge_sees_an_older_state() {
    let mut cluster = Cluster::start("faults", 3, alone());
    let edges = [0, 1, 2].map(|controller| cluster.edge(controller));
    let acks: [Acknowledged; 3] = Default::default();
    let cluster = &cluster;
    let looks: usize = std::thread::scope(|scope| {
        let watching: Vec<_> = edges.iter().map(|edge| watch_version(scope, edge)).collect();
        let editing: Vec<_> =
            (0..3).map(|n| edit(scope, cluster, n, &edges[n], &acks[n])).collect();
        let calm = || {
            for acknowledged in &acks {
                acknowledged.after(Instant::now(), PATIENCE);
            }
        };
        // Not the first host, where the operator is.
        const CUT: usize = 1;
        let leads = find(cluster, Member::leads);
        if leads != CUT {
            cluster.members[leads].hand_over(&cluster.members[CUT]);
            assert_eq!(find(cluster, Member::leads), CUT);
        }
        calm();
        cut_off(cluster, CUT, &edges, &acks);

        calm();
        let leader = &cluster.members[find(cluster, Member::leads)];
        let (lost, since) = (leader.id(), Instant::now());
        leader.kill();
        let led = another_leads(cluster, lost);
        recovered("etcd's leader killed", cluster, &edges, &acks, [since, led]);
        leader.start();
        leader.wait_healthy();

        calm();
        let leader = &cluster.members[find(cluster, Member::leads)];
        let (lost, since) = (leader.id(), Instant::now());
        leader.part(true);
        let led = another_leads(cluster, lost);
        recovered("etcd's leader parted from the others", cluster, &edges, &acks, [since, led]);
        leader.part(false);
        leader.wait_healthy();

        calm();
        frozen(cluster, &edges, &acks);

        calm();
        cluster.members.iter().for_each(Member::kill);
        cluster.members.iter().for_each(Member::start);
        let led = another_leads(cluster, 0);
        recovered("all of etcd restarted, a majority up", cluster, &edges, &acks, [led; 2]);

        drop(editing);
        watching
            .into_iter()
            .map(|(stop, looking)| {
                drop(stop);
                looking.join().unwrap()
            })
            .sum()
    });
    let newest = cluster.revision(0);
    assert_eq!([1, 2].map(|controller| cluster.revision(controller)), [newest; 2]);
    cluster.wait_revision(&edges, newest, PATIENCE);
    assert!(edges.iter().all(|edge| version(edge).unwrap().namespace == newest));
    let writes: usize = acks.iter().map(Acknowledged::count).sum();
    figure(
        "edges that saw an older state during etcd's faults",
        format_args!("0 in {looks} looks at 3 edges, {writes} writes (bound 0)"),
    );
}

/// The host of a controller and of etcd's leader hears nothing and says nothing.
fn cut_off(cluster: &Cluster, cut: usize, edges: &[Edge], acks: &[Acknowledged]) {
    let host = &cluster.hosts[cut];
    assert_eq!(connected(&edges[cut]), Some(host.address()));
    let lost = cluster.members[cut].id();
    host.uplink().cut(true).unwrap();
    let since = Instant::now();
    let led = another_leads(cluster, lost);
    let others: Vec<usize> = (0..3).filter(|n| *n != cut).collect();
    let what = "the host of a controller and of etcd's leader cut off";
    written_by(what, others.iter().map(|n| &acks[*n]), [since, led]);
    let addresses: Vec<IpAddr> = others.iter().map(|n| cluster.hosts[*n].address()).collect();
    wait_at(&edges[cut], &addresses, PATIENCE);
    within("… → its edge with another controller", since.elapsed(), 5 * SECOND);
    cluster.wait_revision(edges, cluster.revision(0), PATIENCE);

    host.uplink().cut(false).unwrap();
    let took = acks[cut].after(Instant::now(), PATIENCE);
    figure("… and reached again → a write by its controller", format_args!("{took:.1?}"));
    cluster.wait_revision(edges, cluster.revision(cut), PATIENCE);
    cluster.members[cut].wait_healthy();
}

/// The member with the most watches stops without a word, and what it has not told of is compacted.
fn frozen(cluster: &Cluster, edges: &[Edge], acks: &[Acknowledged]) {
    let watches: Vec<u64> = cluster.members.iter().map(Member::watches).collect();
    let most = (0..3).max_by_key(|n| watches[*n]).unwrap();
    let member = &cluster.members[most];
    let (leads, lost, since) = (member.leads(), member.id(), Instant::now());
    member.freeze();
    let led = if leads { another_leads(cluster, lost) } else { since };
    written_by("a member of etcd stopped", acks.iter(), [since, led]);
    let other = &cluster.members[(most + 1) % 3];
    let revision = other.revision().to_string();
    let compacted = other.etcdctl(&["compact", &revision]).output().unwrap();
    assert!(compacted.status.success(), "{compacted:?}");
    let written = cluster.revision((most + 1) % 3);
    cluster.wait_revision(edges, written, 2 * NOTICED);
    within(
        "a watched member of etcd stopped, its revisions compacted → what was written is at all edges",
        since.elapsed(),
        NOTICED,
    );
    member.thaw();
    member.wait_healthy();
}

#[test]
fn a_rolling_restart_of_controllers_and_etcd_costs_no_ping() {
    let mut cluster = Cluster::start("rolling", 3, alone());
    let mut edges: Vec<Edge> = (0..6).map(|n| cluster.edge(n % 3)).collect();
    edges.iter_mut().for_each(|edge| edge.wait_links(5).unwrap());
    let pairs = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (0, 3)];
    let pingers: Vec<Pinger> =
        pairs.iter().map(|(a, b)| ping(&edges[*a], &edges[*b], 10 * MS)).collect();
    let begun = Instant::now();
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
    let took = begun.elapsed();
    none_lost(
        &format!(
            "pings lost in a rolling restart of 3 controllers and 3 members of etcd in {took:.1?}, 7 pairs of 6 edges every 10 ms"
        ),
        pingers,
    );
}

/// What changes from one moment to the next whoever is asked.
fn without_times(mut value: Value) -> Value {
    match &mut value {
        Value::Array(rows) => *rows = rows.drain(..).map(without_times).collect(),
        Value::Object(fields) => {
            for time in ["uptime_seconds", "rtt_ms", "since", "age_seconds"] {
                fields.remove(time);
            }
            fields.values_mut().for_each(|field| *field = without_times(field.take()));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    value
}

#[test]
fn each_controller_answers_for_the_whole_mesh() {
    let mut cluster = Cluster::start("answers", 3, shared());
    let mut edges = [0, 1, 2].map(|controller| cluster.edge(controller));
    edges.iter_mut().for_each(|edge| edge.wait_links(2).unwrap());
    cluster.deployment.wait_in_sync("prod", 3).unwrap();

    // A token of one is taken by another.
    let site = cluster.site();
    let enrolment = cluster.deployment.edge(&site);
    enrolment.add().unwrap();
    let token = cluster.deployment.token("prod", "e4").unwrap();
    site.uplink().cut_from(cluster.hosts[0].uplink(), true).unwrap();
    let mut fourth = enrolment.join(&token).unwrap();
    fourth.wait_synced().unwrap();
    assert_ne!(connected(&fourth), Some(cluster.hosts[0].address()));
    fourth.wait_links(3).unwrap();
    cluster.deployment.wait_in_sync("prod", 4).unwrap();

    for (n, edge) in edges.iter().enumerate() {
        let (name, cidr) = (format!("r{n}"), format!("10.200.{n}.0/24"));
        let add = ["route", "add", &name, "-n", "prod", "--cidr", &cidr, "--edge", edge.name()];
        cluster.ctl(n, &[&add[..], &["--wait"]].concat()).success().unwrap();
        // Nobody of any controller lacks it.
        let newest = cluster.revision(n);
        for edge in edges.iter().chain([&fourth]) {
            assert_eq!(version(edge).unwrap().namespace, newest, "{}", edge.name());
        }
    }

    let questions: [&[&str]; 5] = [
        &["status"],
        &["edge", "list", "-A"],
        &["ca", "status"],
        &["audit", "-A", "--limit", "0"],
        &["controller", "list"],
    ];
    for question in questions {
        let ask = |controller| without_times(cluster.json(controller, question));
        let same = || ask(0) == ask(1) && ask(1) == ask(2);
        if let Err(error) = wait_until(PATIENCE, same) {
            let said: Vec<Value> = (0..3).map(ask).collect();
            panic!("{question:?}: {error:#}: {said:#?}");
        }
    }
    let status = cluster.json(2, &["status"]);
    assert_eq!(status["controllers"].as_array().unwrap().len(), 3, "{status:#}");
    assert_eq!(status["namespaces"][0]["in_sync"], 4, "{status:#}");
    let root = &cluster.json(1, &["ca", "status"])["roots"][0];
    assert_eq!((&root["trusted_by"], &root["edges"]), (&4.into(), &4.into()), "{root:#}");
    let makers = cluster.json(1, &["audit", "-A", "--call", "route-add"]);
    assert_eq!(makers.as_array().unwrap().len(), 3, "{makers:#}");

    // One goes for good.
    let running = cluster.ctl(0, &["controller", "del", "ctl3", "--yes"]);
    assert_ne!(running.code, 0, "{running}");
    cluster.deployment.controllers()[2].process_mut().terminate(PATIENCE).unwrap();
    wait_until(PATIENCE, || cluster.ctl(0, &["controller", "del", "ctl3", "--yes"]).code == 0)
        .unwrap();
    let left = [0, 1].map(|controller| cluster.hosts[controller].address());
    for edge in edges.iter().chain([&fourth]) {
        wait_at(edge, &left, PATIENCE);
        let known = || edge.status().unwrap()["controller"]["addresses"].as_array().unwrap().len();
        wait_until(PATIENCE, || known() == 2).unwrap();
    }
    cluster.deployment.wait_in_sync("prod", 4).unwrap();
}
