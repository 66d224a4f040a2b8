//! Seeds that once showed a bug of the code, named after it. Each fails if its fix is undone.
//!
//! A change to what seeds draw makes these ordinary seeds: then look for new ones, by undoing the fix. Those that need no
//! damage are run without, so that they outlive a change to that.

use synod_simulator::{Narrowing, Options, run};

fn check(seed: u64) {
    assert_eq!(run(Options { seed, mild: true, ..Options::default() }).report(), None);
}

fn check_hard(seed: u64) {
    assert_eq!(run(Options { seed, ..Options::default() }).report(), None);
}

/// A leader that had the revealed body in memory proposed it again, but the body was evicted before it was appended.
#[test]
fn an_adopted_body_leaves_memory_before_it_is_appended() {
    check(2529);
}

/// The same body waited for a segment twice, at two ballots; when the second append came, the first had taken it.
#[test]
fn a_body_waits_for_the_log_at_two_ballots() {
    check(677);
}

/// A late pre-vote of a leader's own ballot was refused, and the leader took that for a higher ballot.
#[test]
fn a_late_pre_vote_deposes_no_leader() {
    check(25);
}

/// An answer to a fetch ended with a body that was learned another way meanwhile, and the next fetch waited for a
/// timeout.
#[test]
fn an_answer_that_ends_with_a_known_body_goes_on() {
    check(5790);
}

/// Every second fetch went to the peer that had spoken of the missing bodies, and couldn't be reached any more.
#[test]
fn whoever_answers_is_asked_again() {
    check(136);
}

/// Not of the code, but of these runs: one node had so much to make up for in the calm that its patience ran out.
#[test]
fn the_calm_lasts_until_its_load_is_done() {
    check(1021);
}

/// A restarted leader took its clock's word for the log's time.
#[test]
fn time_goes_on_after_a_restart() {
    check(16);
}

/// A fenced node asked again for the file that it couldn't have, and found work for its log in passing.
#[test]
fn a_fenced_node_asks_for_no_file() {
    check_hard(508);
}

/// A leader told a read point beyond what was chosen. What it had adopted was chosen nowhere, and a barrier waited for that
/// in vain. Clients have little left to hand in, or the log would come to reach there after all.
#[test]
fn a_read_point_is_chosen_before_it_is_told() {
    let narrowing = Narrowing { commands: Some(1), ..Narrowing::default() };
    assert_eq!(run(Options { seed: 1783, narrowing, ..Options::default() }).report(), None);
}

/// An earlier leader refused a question late, and barriers ended that the present leader would have answered.
#[test]
fn a_late_refusal_ends_no_barrier() {
    check(2846);
}

/// A peer made room for what it had not been sent, but the leader waited until it was time to send things again.
#[test]
fn what_was_held_back_is_sent_when_there_is_room() {
    check_hard(137561);
}

/// Nodes that reached a prepare quorum, but no accept quorum, led by turns and in vain, and the one that reached both never
/// did.
#[test]
fn whoever_reaches_no_accept_quorum_does_not_lead() {
    check_hard(444);
}

/// Rot took the headers of the newest segments, which had no records; an old one without their promise was opened.
#[test]
fn a_header_without_records_may_have_held_the_promise() {
    check_hard(60_000_160);
    check_hard(60_002_722);
}

/// The header of a new segment was written over that of an old one, which was then missed instead of the new one.
#[test]
fn a_header_that_went_astray_is_one_of_another_file() {
    check_hard(60_025_936);
}

/// A segment that had been missing for long explained a file that was lost later, which was thought to hold no promise.
#[test]
fn a_segment_missing_before_explains_no_loss_of_today() {
    check_hard(60_033_305);
}

/// Header and first record of a segment went astray, and a stray record passed for the whole of it.
#[test]
fn one_stray_record_makes_no_segment() {
    check_hard(60_063_170);
}

/// A block of a seal that can't be read passed for one that an interrupted write had left out.
#[test]
fn what_cannot_be_read_was_not_torn() {
    check_hard(60_059_906);
}

/// A node that is unsure of its promise took a late heartbeat for news of a leader.
#[test]
fn an_old_heartbeat_brings_no_old_leader_back() {
    check_hard(60_062_344);
}

/// Heartbeats overtook each other, and an old answer of a member passed for its newest: it seemed to be behind the trim, and
/// the others trimmed what it needed.
#[test]
fn an_old_answer_does_not_throw_a_member_behind_the_trim() {
    check_hard(63_003_120);
}

/// The header of the newest segment bounded what was lost in front of it, and was taken to bound what was lost in it.
#[test]
fn a_header_bounds_nothing_behind_it() {
    check_hard(62_029_922);
}

/// The number of another leader's heartbeat passed for that of this one, and confirmed a leader that was deposed.
#[test]
fn each_leadership_counts_its_own_heartbeats() {
    check_hard(1418);
}

/// A node was killed between the delivery of a trim and its record, and kept what was trimmed: some of it was damaged, and
/// nobody had it any more.
#[test]
fn a_trim_that_a_crash_interrupted_is_carried_out() {
    check_hard(64_015_803);
}

/// A seal or a record was torn by a crash, and the header that named the end of the log there, or would have, was lost.
#[test]
fn what_is_torn_is_damage_without_the_header_that_cuts_it() {
    check_hard(64_017_048);
    check_hard(66_011_740);
}

/// A header told of a trim whose record, and the delivery state with it, went down in a power failure: judging began with
/// an empty state.
#[test]
fn a_header_tells_of_no_trim_that_may_be_lost() {
    check_hard(64_022_507);
}

/// The last records of a segment were lost with its seal, and the first record of the next segment couldn't be read: it
/// passed for one that follows the last known record.
#[test]
fn a_record_that_only_the_seal_names_shows_nothing_of_the_segment_before() {
    check_hard(65_016_233);
}

/// Two nodes were thrown behind the trim as far as each other, and had nothing to give each other.
#[test]
fn two_nodes_behind_the_trim_do_not_help_each_other() {
    check_hard(65_017_541);
}

/// An unsure node promised less than a ballot of its own, of an earlier life, that nobody had heard of.
#[test]
fn a_ballot_that_nobody_heard_of_binds_nobody() {
    check_hard(65_024_248);
    check_hard(65_035_607);
}

/// A leader learned beyond the slot up to which it was prepared, and asked for promises again with every answer, for ever.
#[test]
fn what_lies_below_the_mark_needs_no_promise() {
    check_hard(67_000_482);
    check_hard(67_002_345);
}

/// Looking for the trim that carries the delivery state went past a gap that the trim came to fill, and never looked there
/// again.
#[test]
fn a_trim_is_looked_for_where_it_comes_again() {
    check_hard(69_018_033);
    check_hard(69_018_226);
}

/// A segment that had been given up explained a file that was lost, which was thought to hold no promise.
#[test]
fn a_segment_given_up_explains_no_loss() {
    check_hard(69_015_794);
}

/// What a chosen body in its place had killed was still asked for, because that one came as a copy.
#[test]
fn a_copy_of_a_chosen_body_kills_what_shares_a_slot_with_it() {
    check_hard(70_008_497);
}

/// A removed node that was taken in again had heard a leader of the old configuration, at a ballot that was never promised
/// to it, and heeded no lower one ever after.
#[test]
fn a_leader_of_an_old_configuration_shuts_out_nobody_for_ever() {
    check_hard(70_016_541);
}

/// A void configuration at the beginning of a log whose real one is trimmed away was taken for it after a restart.
#[test]
fn a_void_configuration_succeeds_nothing_that_is_trimmed() {
    check_hard(70_025_409);
}

/// The first record of the log's first segment was unreadable, and nothing doubted what it held.
#[test]
fn a_segment_begins_with_its_first_record() {
    check_hard(70_030_999);
}

/// A header that couldn't be read came back, when its epoch had been given to another segment.
#[test]
fn a_header_that_comes_back_is_outlived() {
    check_hard(70_047_831);
}

/// A leader that the newest configuration doesn't name raised the format to one that it couldn't read itself: only those
/// whom a configuration names were asked.
#[test]
fn a_leader_that_was_removed_must_read_the_new_format_too() {
    check_hard(500_496);
}

/// What was to be trimmed, and can't be had from anybody, was still sought; and the trim that told the delivery state wasn't
/// sought any more, because more was to be trimmed.
#[test]
fn what_is_sought_is_what_is_needed() {
    check_hard(1_067);
    check_hard(882);
}

/// A replica whose log began lower than the trim that it came with took that trim's empty state for the one at its base.
#[test]
fn an_empty_state_begins_at_its_own_point() {
    check_hard(5_851);
}
