//! Configurations and settings, compared with slow and obvious twins over all small inputs.

use super::*;

fn configuration(members: &[u32], prepare_quorum: u32, accept_quorum: u32) -> Configuration {
    let members = members.iter().copied().map(NodeId).collect();
    let (learners, leaving) = (Vec::new(), Vec::new());
    Configuration {
        chosen_at: Slot(0),
        members,
        prepare_quorum,
        accept_quorum,
        alpha: 100,
        learners,
        leaving,
        format: FORMAT_FIRST,
    }
}

/// All sets of `size` out of `count` members, as bits.
fn subsets(count: u32, size: u32) -> impl Iterator<Item = u32> {
    (0..1u32 << count).filter(move |set| set.count_ones() == size)
}

#[test]
fn quorums_are_sound_exactly_if_any_two_of_different_phases_meet() {
    for count in 1..=7u32 {
        let members: Vec<u32> = (1..=count).collect();
        for prepare in 0..=count + 1 {
            for accept in 0..=count + 1 {
                let possible = subsets(count, prepare).count() > 0 && subsets(count, accept).count() > 0;
                let meet = subsets(count, prepare).all(|one| subsets(count, accept).all(|other| one & other != 0));
                let sound = configuration(&members, prepare, accept).check().is_ok();
                assert_eq!(sound, possible && meet, "{prepare} and {accept} of {count}");
            }
        }
    }
    for (prepare, accept) in [(u32::MAX, 1), (1, u32::MAX), (u32::MAX, u32::MAX)] {
        let refused = configuration(&[1, 2, 3], prepare, accept).check();
        assert_eq!(refused, Err(ConfigurationError::Quorums { prepare, accept, members: 3 }));
    }
}

#[test]
fn votes_count_once_and_only_from_members() {
    let members = [2, 3, 5, 8];
    for prepare in 1..=4 {
        for accept in 1..=4 {
            let configuration = configuration(&members, prepare, accept);
            // Every set of voters among nine nodes, each voting twice.
            for set in 0..1u32 << 9 {
                let voters = || (1..=9).filter(|node| set & (1 << (node - 1)) != 0).map(NodeId);
                let votes: Vec<NodeId> = voters().chain(voters()).collect();
                let counted = voters().filter(|voter| members.contains(&voter.0)).count() as u32;
                assert_eq!(configuration.is_prepare_quorum(&votes), counted >= prepare);
                assert_eq!(configuration.is_accept_quorum(&votes), counted >= accept);
            }
        }
    }
}

#[test]
fn genesis_has_majorities_and_sorted_members() {
    for count in 1..=MEMBERS_MAX as u32 {
        let members: Vec<NodeId> = (1..=count).rev().map(NodeId).collect();
        let genesis = Configuration::genesis(members, Configuration::ALPHA_DEFAULT).expect("a sound genesis");
        assert!(genesis.members.is_sorted() && genesis.chosen_at == Slot(0));
        let majority = (1..).find(|quorum| 2 * quorum > count).expect("some number is large enough");
        assert_eq!((genesis.prepare_quorum, genesis.accept_quorum), (majority, majority));
        assert!((1..=count).all(|node| genesis.is_member(NodeId(node))));
        assert!(!genesis.is_member(NodeId(0)) && !genesis.is_member(NodeId(count + 1)));
    }
}

#[test]
fn a_bad_configuration_is_refused_with_the_reason() {
    let genesis = |members: &[u32], alpha| Configuration::genesis(members.iter().copied().map(NodeId).collect(), alpha);
    assert_eq!(genesis(&[], 100), Err(ConfigurationError::MemberCount(0)));
    let ten: Vec<u32> = (1..=10).collect();
    assert_eq!(genesis(&ten, 100), Err(ConfigurationError::MemberCount(10)));
    assert_eq!(genesis(&[1, 2, 1], 100), Err(ConfigurationError::MemberOrder));
    assert_eq!(genesis(&[0, 1, 2], 100), Err(ConfigurationError::MemberOrder));
    assert_eq!(configuration(&[3, 2], 2, 2).check(), Err(ConfigurationError::MemberOrder));
    for alpha in [0, 1, (1 << 20) + 1, u32::MAX] {
        assert_eq!(genesis(&[1, 2, 3], alpha), Err(ConfigurationError::Alpha(alpha)));
    }
    for alpha in [2, 1 << 20] {
        assert!(genesis(&[1, 2, 3], alpha).is_ok());
    }
}

#[test]
fn settings_are_checked_against_each_other() {
    let default = Settings::default();
    assert_eq!(default.check(), Ok(()));
    let zero = Duration::ZERO;
    let bad = [
        (Settings { heartbeat_interval: zero, ..default.clone() }, SettingsError::Zero("heartbeat_interval")),
        (Settings { retransmit_interval: zero, ..default.clone() }, SettingsError::Zero("retransmit_interval")),
        (Settings { fetch_delay: zero, ..default.clone() }, SettingsError::Zero("fetch_delay")),
        (Settings { window_bodies: 0, ..default.clone() }, SettingsError::Zero("window_bodies")),
        (Settings { window_bytes: 0, ..default.clone() }, SettingsError::Zero("window_bytes")),
        (Settings { fetch_bytes: 0, ..default.clone() }, SettingsError::Zero("fetch_bytes")),
        (Settings { peer_bytes: 1, ..default.clone() }, SettingsError::PeerBytes { peer: 1, window: 16 << 20 }),
    ];
    for (settings, error) in bad {
        assert_eq!(settings.check(), Err(error));
    }
    for heartbeat_interval in [Duration::from_millis(201), Duration::MAX] {
        let settings = Settings { heartbeat_interval, ..default.clone() };
        let error = SettingsError::Election { election: default.election_timeout, heartbeat: heartbeat_interval };
        assert_eq!(settings.check(), Err(error), "and a huge value doesn't overflow");
    }
    assert_eq!(Settings { heartbeat_interval: Duration::from_millis(200), ..default }.check(), Ok(()));
}

#[test]
fn huge_times_are_only_very_long() {
    use crate::{Instant, Recovered, Replica};
    let settings =
        Settings { election_timeout: Duration::MAX, retransmit_interval: Duration::MAX, ..Settings::default() };
    assert_eq!(settings.check(), Ok(()));
    let genesis = Configuration::genesis(vec![NodeId(1)], 100).expect("a sound genesis");
    let configurations = Configurations::new(genesis);
    let mut replica = Replica::new(NodeId(1), 1, 1, settings, configurations, Recovered::default(), Instant(5));
    for now in [5, u64::MAX] {
        replica.handle_timeout(Instant(now));
    }
}

#[test]
fn learners_are_no_members_and_only_members_leave_for_them() {
    let nodes = |numbers: &[u32]| numbers.iter().copied().map(NodeId).collect::<Vec<_>>();
    let with = |learners: &[u32], leaving: &[u32]| {
        let three = configuration(&[1, 2, 3], 2, 2);
        Configuration { learners: nodes(learners), leaving: nodes(leaving), ..three }.check()
    };
    assert_eq!((with(&[], &[]), with(&[4, 5], &[]), with(&[4], &[1, 3])), (Ok(()), Ok(()), Ok(())));
    for (learners, leaving) in
        [(&[3][..], &[][..]), (&[5, 4], &[]), (&[4, 4], &[]), (&[0], &[]), (&[], &[1]), (&[4], &[5]), (&[4], &[2, 1])]
    {
        assert_eq!(with(learners, leaving), Err(ConfigurationError::Learners), "{learners:?} {leaving:?}");
    }
}

#[test]
fn quorums_of_a_changed_configuration_intersect() {
    for count in 1..=MEMBERS_MAX as u32 {
        let before: Vec<u32> = (1..=count).collect();
        for accept in 1..=count {
            let majority = count / 2 + 1;
            for prepare in [count + 1 - accept, majority] {
                let before = configuration(&before, prepare, accept);
                if before.check().is_err() {
                    continue;
                }
                for size in 1..=MEMBERS_MAX as u32 {
                    let after = before.with_members((1..=size).map(NodeId).collect());
                    assert_eq!(after.check(), Ok(()), "{before:?} {after:?}");
                    let majorities = (prepare, accept) == (majority, majority);
                    assert!(!majorities || after.accept_quorum == size / 2 + 1, "majorities stay majorities");
                }
            }
        }
    }
}

#[test]
fn a_promotion_brings_the_learners_in_and_lets_go_who_leaves() {
    let nodes = |numbers: &[u32]| numbers.iter().copied().map(NodeId).collect::<Vec<_>>();
    let three = configuration(&[1, 2, 3], 2, 2);
    let swap = Configuration { learners: nodes(&[4, 5]), leaving: nodes(&[1, 2]), ..three.clone() };
    let after = swap.promoted();
    assert_eq!((after.members, after.learners, after.leaving), (nodes(&[3, 4, 5]), vec![], vec![]));
    assert!(swap.has_voters_of(&three) && !swap.promoted().has_voters_of(&three));
    assert_eq!((three.tolerance(), configuration(&[1, 2, 3, 4], 4, 1).tolerance()), (1, 0));
}

/// The slow twin: of all that were chosen up to alpha slots before, the last.
#[test]
fn a_configuration_rules_from_alpha_slots_after_its_own() {
    let chosen_at = |slot: u64| Configuration { chosen_at: Slot(slot), ..configuration(&[1, 2, 3], 2, 2) };
    for gaps in [[100, 100], [101, 300], [250, 100], [1000, 101]] {
        let slots = [5, 5 + gaps[0], 5 + gaps[0] + gaps[1]];
        let mut configurations = Configurations::new(configuration(&[1, 2, 3], 2, 2));
        for (known, slot) in slots.into_iter().enumerate() {
            let after = Slot(if known == 0 { 0 } else { slots[known - 1] });
            assert!(!configurations.choose(Slot(slot - 1), chosen_at(slot)), "it knew of another one before it");
            assert!(configurations.choose(after, chosen_at(slot)));
            assert!(!configurations.choose(after, chosen_at(slot)), "once is enough");
            assert!(!configurations.choose(after, chosen_at(slot + 1)), "that is void");
            // Nobody asks for what lies before the last one that ruled when this one was chosen.
            for asked in slot..slot + 500 {
                let rules = slots[..=known].iter().rev().find(|slot| **slot + 100 <= asked).copied().unwrap_or(0);
                assert_eq!(configurations.configuration_at(Slot(asked)).chosen_at, Slot(rules), "{slots:?} {asked}");
                let next = slots[..=known].iter().map(|slot| slot + 100).find(|from| *from > asked);
                assert_eq!(configurations.boundary_after(Slot(asked)), next.map(Slot));
            }
        }
        let last = slots[2] + 100;
        assert!(configurations.retiring_at(Slot(last)).is_some() && configurations.retire_before(Slot(last)));
        assert!(!configurations.retire_before(Slot(last)) && configurations.retiring_at(Slot(last)).is_none());
        assert_eq!(configurations.configuration_at(Slot(1)), configurations.newest(), "what retired held everything");
    }
}
