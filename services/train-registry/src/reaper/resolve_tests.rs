//! Every way in which a process may look like a run's and not be it.

use proptest::prelude::*;

use super::*;

const BOOT: &str = "this-boot";
const US: u32 = 1000;
const HOST: u32 = 50;
const RUNNER: u32 = 51;

fn run() -> RunId {
    "r1".into()
}

fn seen(pid: u32, parent: u32, mark: Mark) -> Seen {
    let row = Process {
        pid,
        parent,
        group: pid,
        session: pid,
        start_time: u64::from(pid) * 10,
        state: 'S',
        threads: 1,
    };
    Seen { row, uid: US, mark }
}

fn ours(home: Home) -> Mark {
    Mark::Run { run: run(), home }
}

fn host(start_time: u64, boot: &str, home: Home) -> HostRecord {
    HostRecord { identity: Identity { pid: HOST, start_time, boot_id: boot.into() }, home }
}

fn subject<'a>(run: &'a RunId, host: Option<&'a HostRecord>) -> Subject<'a> {
    Subject { run, uid: US, host, runner: Some(RUNNER) }
}

/// The resolution of run `r1` with `host` among `others` and the host's process itself.
fn resolved(host: Option<&HostRecord>, others: &[Seen]) -> (Host, Vec<String>) {
    let run = run();
    let table: Vec<Seen> = [seen(HOST, 1, Mark::None)].into_iter().chain(others.iter().cloned()).collect();
    let Resolution { host, skipped } = resolve(&subject(&run, host), &table, BOOT);
    (host, skipped.into_iter().map(|one| format!("{}: {}", one.pid.unwrap_or(0), one.reason)).collect())
}

#[test]
fn a_host_is_proved_by_its_whole_identity() {
    let right = host(500, BOOT, Home::Here);
    let alive = Host::Alive(right.identity.clone());
    let none = Vec::new;
    let elsewhere = Home::Elsewhere("/copy".into());
    let cases = [
        (Some(right.clone()), alive.clone(), none()),
        (Some(host(500, BOOT, Home::Unsaid)), alive, none()),
        (None, Host::Gone, none()),
        (
            Some(host(499, BOOT, Home::Here)),
            Host::Gone,
            vec![
                "50: it is not the host of run r1, whose process id it has: it began at another time"
                    .to_owned(),
            ],
        ),
        (
            Some(host(500, "other", Home::Here)),
            Host::Gone,
            vec!["50: run r1 was hosted on another boot, or on another machine".to_owned()],
        ),
        (Some(host(500, BOOT, elsewhere)), Host::Unsure, vec!["50: it hosts run r1 in /copy".to_owned()]),
    ];
    for (record, want, why) in cases {
        assert_eq!(resolved(record.as_ref(), &[]), (want, why), "{record:?}");
    }
    let mut stranger = seen(HOST, 1, Mark::None);
    stranger.uid = 0;
    let run = run();
    let found = resolve(&subject(&run, Some(&right)), &[stranger], BOOT);
    assert_eq!(found.host, Host::Unsure, "another user's");
    assert_eq!(resolve(&subject(&run, Some(&right)), &[], BOOT).host, Host::Gone, "nobody has its pid");
}

#[test]
fn a_run_that_goes_on_elsewhere_or_under_another_user_is_not_touched() {
    let right = host(500, BOOT, Home::Here);
    let copy = seen(70, 1, ours(Home::Elsewhere("/copy".into())));
    assert_eq!(
        resolved(Some(&right), &[copy]),
        (Host::Unsure, vec!["70: it belongs to run r1 in /copy".to_owned()])
    );
    let mut other = seen(71, 1, ours(Home::Here));
    other.uid = 0;
    assert_eq!(
        resolved(Some(&right), &[other]),
        (Host::Unsure, vec!["71: it carries the id of run r1 and belongs to user 0".to_owned()])
    );
    let stranger = Mark::Run { run: "r2".into(), home: Home::Elsewhere("/copy".into()) };
    assert!(
        matches!(resolved(Some(&right), &[seen(72, 1, stranger)]), (Host::Alive(_), none) if none.is_empty())
    );
}

#[test]
fn the_server_the_command_and_their_ancestors_are_protected_and_the_named_ones_alone() {
    let table = [
        seen(2, 1, Mark::None),
        seen(3, 2, Mark::None),
        seen(4, 3, Mark::None),
        seen(20, 1, Mark::None),
        seen(21, 20, Mark::None),
        seen(30, 1, Mark::None),
        seen(31, 30, Mark::None),
    ];
    let protected = Protected::new(&table, 4, Some(21), &[31, 20]);
    assert_eq!(protected.pids().collect::<Vec<_>>(), [1, 2, 3, 4, 20, 21, 31]);
    assert_eq!(protected.why(4), Some("it is this command"));
    assert_eq!(protected.why(20), Some("the server was started from it"));
    assert_eq!(protected.why(31), Some("it is protected by --protect"));
    assert_eq!(protected.why(30), None, "a named process's ancestors are not named");
    // A table that was read while it changed.
    let ring = [seen(5, 6, Mark::None), seen(6, 5, Mark::None)];
    assert_eq!(Protected::new(&ring, 5, None, &[]).pids().collect::<Vec<_>>(), [5, 6]);
}

fn sentenced(members: &[u32], table: &[Seen], named: &[u32]) -> Sentence {
    let run = run();
    let right = host(500, BOOT, Home::Here);
    let protected = Protected::new(table, 4, None, named);
    let host = Host::Alive(right.identity.clone());
    sentence(&subject(&run, Some(&right)), &host, members, table, &protected)
}

#[test]
fn what_is_protected_is_spared_and_with_the_host_or_the_runner_the_whole_run() {
    let members = [60, 61, RUNNER, HOST];
    let spared = sentenced(&members, &[], &[61]);
    assert_eq!((spared.condemned, spared.pardoned), (vec![60, RUNNER, HOST], false));
    assert_eq!(spared.skipped.len(), 1);
    for pid in [HOST, RUNNER] {
        let spared = sentenced(&members, &[], &[pid]);
        assert_eq!((spared.condemned, spared.pardoned), (vec![], true), "{pid}");
        assert!(spared.skipped[1].reason.contains("goes on"), "{:?}", spared.skipped);
    }
    // This command was called from within the run.
    let inside = [seen(4, RUNNER, Mark::None), seen(RUNNER, HOST, ours(Home::Here))];
    assert!(sentenced(&members, &inside, &[]).pardoned);
}

#[test]
fn an_unreadable_process_in_the_runners_group_is_doubtful_and_others_are_nobodys_business() {
    let mut doubtful = seen(80, 1, Mark::Unreadable);
    doubtful.row.group = RUNNER;
    let table = [doubtful, seen(81, 1, Mark::Unreadable)];
    let said = sentenced(&[RUNNER, HOST], &table, &[]);
    assert_eq!(said.condemned, [RUNNER, HOST]);
    assert_eq!(said.skipped.len(), 1, "{:?}", said.skipped);
    assert_eq!(said.skipped[0].pid, Some(80));
    assert!(said.skipped[0].reason.contains("cannot be read"));
    let member = sentenced(&[80, RUNNER, HOST], &table, &[]);
    assert!(member.skipped.is_empty(), "what descends from the host is proved by that");
}

fn mark() -> impl Strategy<Value = Mark> {
    let home =
        prop_oneof![Just(Home::Here), Just(Home::Unsaid), Just(Home::Elsewhere(PathBuf::from("/copy"))),];
    let run = prop_oneof![Just(RunId::from("r1")), Just(RunId::from("r2"))];
    prop_oneof![
        2 => Just(Mark::None),
        1 => Just(Mark::Unreadable),
        3 => (run, home).prop_map(|(run, home)| Mark::Run { run, home }),
    ]
}

fn table() -> impl Strategy<Value = Vec<Seen>> {
    let one = (2_u32..60, 0_u32..60, mark(), prop_oneof![4 => Just(US), 1 => Just(0)], 500_u64..502);
    prop::collection::vec(one, 0..30).prop_map(|rows| {
        let mut by_pid = BTreeMap::new();
        for (pid, parent, mark, uid, start_time) in rows {
            let mut one = seen(pid, parent, mark);
            one.uid = uid;
            if pid == HOST {
                one.row.start_time = start_time;
            }
            by_pid.insert(pid, one);
        }
        by_pid.into_values().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nobody_is_condemned_without_proof_or_against_protection(
        table in table(),
        boot in prop_oneof![Just(BOOT), Just("other")],
        home in prop_oneof![Just(Home::Here), Just(Home::Unsaid), Just(Home::Elsewhere("/copy".into()))],
        named in prop::collection::vec(2_u32..60, 0..4),
        own in 2_u32..60,
        members in prop::collection::btree_set(2_u32..60, 0..20),
    ) {
        let run = run();
        let record = host(500, boot, home.clone());
        let subject = subject(&run, Some(&record));
        let found = resolve(&subject, &table, BOOT);
        let of_another = |one: &Seen| foreign(&run, US, one).is_some();
        if let Host::Alive(identity) = &found.host {
            prop_assert_eq!(identity, &record.identity);
            let there = table.iter().find(|one| one.row.pid == HOST);
            prop_assert!(there.is_some_and(|one| one.row.start_time == 500 && one.uid == US));
            prop_assert!(boot == BOOT && !matches!(home, Home::Elsewhere(_)));
        }
        if table.iter().any(of_another) {
            prop_assert_eq!(&found.host, &Host::Unsure);
        }
        let protected = Protected::new(&table, own, None, &named);
        let members: Vec<u32> = members.into_iter().collect();
        let said = sentence(&subject, &found.host, &members, &table, &protected);
        for pid in &said.condemned {
            prop_assert!(*pid != own && !named.contains(pid) && members.contains(pid));
        }
        if named.contains(&HOST) && members.contains(&HOST) && matches!(found.host, Host::Alive(_)) {
            prop_assert!(said.condemned.is_empty() && said.pardoned);
        }
        for pid in members.iter().filter(|pid| !said.pardoned && !said.condemned.contains(pid)) {
            prop_assert!(said.skipped.iter().any(|one| one.pid == Some(*pid)), "{} is left alone without a word", pid);
        }
    }
}
