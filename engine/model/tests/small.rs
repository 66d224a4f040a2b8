//! Small models, explored to the end: nothing is violated, and what should happen does.

use synod_model::decree::Decree;
use synod_model::naive::Naive;
use synod_model::{Bounds, Cluster, Report, Search, Setup, check};

fn explore(name: &str, bounds: &Bounds) -> Report {
    check(Cluster::new(Setup::named(name).expect("a model of this name"), None), bounds)
}

fn expect_clean(report: &Report, sights: &[&str]) {
    assert!(report.is_clean(), "{report}");
    for sight in sights {
        assert!(report.sights.contains(&(sight, true)), "never seen: {sight}\n{report}");
    }
}

#[test]
fn two_proposers_agree() {
    let report = explore("duel", &Bounds::default());
    expect_clean(
        &report,
        &[
            "a body is chosen",
            "every slot is decided",
            "two leaders in one history",
            "a body is adopted by a later ballot",
        ],
    );
    assert!(report.exhausted, "{report}");
}

#[test]
fn a_proposer_that_crashes_agrees_with_itself() {
    let report = explore("lives", &Bounds { search: Search::Depth, ..Bounds::default() });
    expect_clean(&report, &["every slot is decided", "a crash after accepting", "a crash loses an append"]);
    assert!(report.exhausted, "{report}");
}

#[test]
fn a_follower_that_missed_a_body_fetches_it() {
    let report = explore("fetch", &Bounds { search: Search::Depth, ..Bounds::default() });
    expect_clean(&report, &["every slot is decided", "a chosen body is fetched"]);
    assert!(report.exhausted, "{report}");
}

#[test]
fn bodies_that_overlap_die_whole() {
    let bounds = Bounds { search: Search::Depth, states: Some(500_000), ..Bounds::default() };
    expect_clean(&explore("overlap", &bounds), &["a dead body is filled by no-ops"]);
}

#[test]
fn an_acceptor_that_lost_an_accept_abstains() {
    let bounds = Bounds { search: Search::Depth, states: Some(150_000), ..Bounds::default() };
    expect_clean(&explore("doubt", &bounds), &["a body is chosen", "a promise in doubt"]);
}

#[test]
fn an_acceptor_that_lost_a_promise_asks_for_it() {
    let bounds = Bounds { search: Search::Depth, states: Some(150_000), ..Bounds::default() };
    expect_clean(&explore("unsure", &bounds), &["a body is chosen", "an unsure acceptor is sure again"]);
}

#[test]
fn an_acceptor_that_lost_its_disk_is_heard_no_more() {
    let bounds = Bounds { search: Search::Depth, states: Some(300_000), ..Bounds::default() };
    expect_clean(&explore("amnesiac", &bounds), &["a body is chosen", "an acceptor loses its disk"]);
}

#[test]
fn acceptors_that_lose_more_agree_as_far_as_it_goes() {
    let bounds = Bounds { search: Search::Depth, states: Some(100_000), ..Bounds::default() };
    expect_clean(&explore("losses", &bounds), &["a body is chosen", "an unsure acceptor is sure again"]);
}

#[test]
fn everything_at_once_agrees_as_far_as_it_goes() {
    let bounds = Bounds { search: Search::Depth, states: Some(100_000), ..Bounds::default() };
    expect_clean(&explore("full", &bounds), &["a body is chosen"]);
}

#[test]
fn a_configuration_rules_from_alpha_slots_after_its_own() {
    let report = explore("change", &Bounds { states: Some(300_000), ..Bounds::default() });
    expect_clean(&report, &["two leaders in one history", "a body is chosen under a changed configuration"]);
}

#[test]
fn the_same_model_has_the_same_states() {
    let counts = [(); 2].map(|()| {
        let report = explore("duel", &Bounds::default());
        (report.distinct, report.generated)
    });
    assert_eq!(counts[0], counts[1]);
}

#[test]
fn a_bound_of_depth_is_kept() {
    let report = explore("duel", &Bounds { depth: Some(6), ..Bounds::default() });
    assert_eq!((report.depth, report.exhausted), (6, false), "{report}");
}

#[test]
fn single_decree_paxos_agrees() {
    let report = check(Decree::new([1, 1], 0), &Bounds { search: Search::Depth, ..Bounds::default() });
    expect_clean(&report, &["a command is chosen", "a client gets another's command chosen", "every server executes"]);
    assert!(report.exhausted, "{report}");
}

#[test]
fn the_naive_ticket_protocol_does_not() {
    let report = check(Naive::default(), &Bounds::default());
    let violation = report.violations.first().expect("the disagreement is found");
    assert_eq!(violation.property, "agreement");
    let told = |step: &&String| step.contains("to execute what it has stored");
    assert_eq!(violation.steps.iter().filter(told).count(), 2, "{report}");
}
