//! Every planted bug is found, and ends in disagreement if nothing stops it earlier.

use synod_model::history::Law;
use synod_model::{Bounds, Cluster, Plant, Setup, check};

/// Finds `plant` in `model`: first what breaks first, then the disagreement that it leads to.
fn find(plant: Plant, model: &str, first: Law) {
    let setup = Setup::named(model).expect("a model of this name");
    let cluster = Cluster::new(setup, Some(plant));
    for (law, cluster) in [(first, cluster.clone()), (Law::Agreement, cluster.only(Law::Agreement))] {
        let report = check(cluster, &Bounds { states: Some(1_000_000), ..Bounds::default() });
        let found = report.violations.iter().find(|violation| violation.property == law.name());
        let found = found.unwrap_or_else(|| panic!("{plant} doesn't break {} in {model}: {report}", law.name()));
        assert!(!found.breach.is_empty() && !found.steps.is_empty(), "{report}");
    }
}

macro_rules! planted {
    ($($name:ident $plant:ident $model:literal $law:ident,)*) => {
        $(
            #[test]
            fn $name() {
                find(Plant::$plant, $model, Law::$law);
            }
        )*

        #[test]
        fn every_planted_bug_is_looked_for() {
            assert_eq!(Plant::ALL, [$(Plant::$plant,)*]);
        }
    };
}

planted! {
    an_acceptor_that_forgets_its_promise ForgetsPromise "crash" PromiseMonotonic,
    an_acceptor_that_forgets_what_it_accepted ForgetsAccepted "crash" ChosenStaysChosen,
    a_candidate_that_ignores_what_is_accepted IgnoresAccepted "duel" ChosenStaysChosen,
    a_dead_body_that_is_adopted AdoptsDead "overlap" ChosenStaysChosen,
    a_vote_that_counts_before_it_is_durable VotesEarly "crash" PersistBeforeSpeak,
    one_accept_taken_for_a_quorum LoneQuorum "duel" ChosenByQuorum,
    a_ballot_that_is_used_again ReusesBallots "lives" PromiseMonotonic,
    an_acceptor_that_hides_its_doubt HidesDoubt "doubt" ChosenStaysChosen,
    an_acceptor_that_is_sure_too_early SureTooEarly "unsure" PromiseMonotonic,
    a_stranger_that_is_heard HearsStrangers "amnesiac" ChosenStaysChosen,
    a_configuration_that_rules_at_once RulesAtOnce "change" ChosenByQuorum,
}
