//! Every checker fires: each planted bug is found within a few seeds, by each property that it violates alone, and the
//! report says how to see it again.

use synod_simulator::{Options, Plant, Property, run, run_twice};

/// In how many seeds a planted bug must show.
const SEEDS: u64 = 4000;

fn check(plant: Plant) {
    for property in plant.violates() {
        let only = Some(*property);
        let found = (0..SEEDS).find_map(|seed| {
            let options = Options { seed, plant: Some(plant), only, ..Options::default() };
            let outcome = if *property == Property::Determinism { run_twice(options) } else { run(options) };
            outcome.report().map(|report| (seed, report))
        });
        let Some((seed, report)) = found else { panic!("{plant} doesn't violate {property} in {SEEDS} seeds") };
        let named = format!("seed {seed} violates {property}: ");
        assert!(report.starts_with(&named), "{report}");
        let replay = format!("cargo run --release -p synod-simulator -- --seed {seed} --plant {plant} --only ");
        assert!(report.contains(&replay), "{report}");
    }
}

macro_rules! planted {
    ($($name:ident $plant:ident,)*) => {
        $(
            #[test]
            fn $name() {
                check(Plant::$plant);
            }
        )*

        #[test]
        fn every_planted_bug_is_looked_for() {
            assert_eq!(Plant::ALL, [$(Plant::$plant,)*]);
        }
    };
}

planted! {
    an_acceptor_that_forgets_its_promise ForgetsPromise,
    an_acceptor_that_forgets_what_it_accepted ForgetsAccepted,
    a_wiped_disk WipedDisk,
    a_ballot_that_is_used_again ReusesBallots,
    a_lying_disk LyingDisk,
    an_early_answer AnswersEarly,
    votes_that_nobody_gave CountsUnsentVotes,
    the_naive_ticket_protocol IgnoresPromises,
    two_values_in_one_ballot TwoValues,
    a_false_leader SpeaksForAnother,
    another_body_delivered DeliversAnother,
    a_skipped_delivery SkipsDelivery,
    a_wrong_chain WrongChain,
    a_flipped_bit FlipsBit,
    an_early_ack AcksEarly,
    a_wrong_slot_acked AcksWrongSlot,
    the_first_slot_acked AcksFirstSlot,
    a_false_claim_of_durability ClaimsStable,
    a_slot_called_trimmed CallsTrimmed,
    a_reader_beside_its_slot ReadsBeside,
    an_answer_to_what_was_not_asked AnswersAhead,
    a_read_point_not_waited_for ReadsAtOnce,
    a_clock_turned_back TurnsBackTime,
    a_cluster_that_never_serves NeverServes,
    a_leader_that_falls_silent FallsSilent,
    a_panic Panics,
    ambient_chance AmbientChance,
    a_lost_write LosesWrite,
    a_refusal_that_is_none RefusesProposed,
    a_node_that_forgets_configurations ForgetsConfiguration,
    a_proposer_beyond_alpha OverrunsAlpha,
    a_leader_without_a_quorum SkimpsPhaseOne,
    another_nodes_directory IgnoresIdentity,
    an_old_copy_put_back RollsBack,
    peers_forgotten ForgetsPeers,
    a_twin_let_in WelcomesTwins,
    a_stranger_let_in WelcomesStrangers,
    a_cloned_voter ClonedVoter,
    words_after_a_failure SpeaksAfterFailure,
    a_sync_tried_again RetriesSync,
    a_damaged_log_begun_anew RebuildsDamaged,
    damage_taken_for_a_torn_write CutsDoubtful,
    a_sound_file_blamed BlamesAnother,
    doubts_hidden HidesDoubts,
    a_vote_before_it_is_known_what_was_promised SureTooEarly,
    doubt_after_a_mere_crash DoubtsCrashes,
    an_accept_left_out OmitsAccept,
    a_duplicate_that_counts DeliversTwice,
    a_deposed_writer_heeded HeedsTheDeposed,
    other_limits_than_the_others OtherLimits,
    an_install_that_is_not_durable InstallsUnsynced,
    a_promise_forgotten_in_an_install ForgetsOnInstall,
    the_base_of_another_slot InstallsBeside,
    a_delivery_state_left_out LeavesOutState,
    a_node_that_says_it_reads_what_it_cannot SaysItReads,
    a_log_opened_that_is_too_new OpensNewer,
    a_forged_chain ForgesChain,
}

#[test]
fn every_property_has_a_planted_bug() {
    for property in Property::ALL {
        let violated = Plant::ALL.iter().any(|plant| plant.violates().contains(property));
        assert!(violated, "nothing shows that {property} is checked");
    }
}

#[test]
fn a_report_without_a_plant_is_one_command() {
    let options = Options { seed: 0, plant: Some(Plant::Panics), ..Options::default() };
    let mut outcome = run(options);
    outcome.options = Options { seed: 0, ..Options::default() };
    let report = outcome.report().expect("the planted panic is found");
    assert!(report.ends_with("replay: cargo run --release -p synod-simulator -- --seed 0"), "{report}");
}
