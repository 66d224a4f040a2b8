//! Disks that do wrong: operations that fail, which any node must bear, and damage to what is stored, which strikes only
//! where the atlas allows it.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::disk::Astray;
use crate::disk::damage::Grain;
use crate::random::{Chance, Random};

use super::atlas::Atlas;

/// What goes wrong with disks, besides taking their time.
#[derive(Clone, Debug)]
pub struct DiskDamage {
    /// Whose stored bytes may be damaged.
    pub atlas: Atlas,
    /// A write is reported as done and isn't, or has gone elsewhere.
    pub astray: Chance,
    /// Where writes that go astray end.
    pub astray_to: Option<Astray>,
    /// A power failure leaves a block half written.
    pub torn: Chance,
    /// Time between two moments at which something stored changes or can't be read any more; none if never.
    pub rot_every: Option<RangeInclusive<Duration>>,
    /// How much changes at once; any if not given.
    pub grain: Option<Grain>,
    /// It can't be read any more, instead of changing.
    pub unreadable: Chance,
    /// A write fails.
    pub write_error: Chance,
    /// A sync fails.
    pub sync_error: Chance,
    /// A file can't be made or zeroed: the disk is full, for a while.
    pub full: Chance,
    /// How long the disk is full then.
    pub full_for: RangeInclusive<Duration>,
    /// Files that a log may have at most until faults stop.
    pub files_max: Option<u32>,
}

/// How often a full disk is asked again.
pub const FILE_RETRY: Duration = Duration::from_millis(20);

impl DiskDamage {
    /// Disks that do what they are told.
    pub fn none() -> DiskDamage {
        DiskDamage {
            atlas: Atlas::SOUND,
            astray: Chance::NEVER,
            astray_to: None,
            torn: Chance::NEVER,
            rot_every: None,
            grain: None,
            unreadable: Chance::NEVER,
            write_error: Chance::NEVER,
            sync_error: Chance::NEVER,
            full: Chance::NEVER,
            full_for: Duration::ZERO..=Duration::ZERO,
            files_max: None,
        }
    }

    pub(super) fn draw(random: &mut Random, pace: u64, nodes: usize, needed: usize) -> DiskDamage {
        let mut damage = DiskDamage::none();
        let often = |random: &mut Random, chances: &[Chance]| {
            if random.chance(Chance::of(1, 2)) { random.pick(chances) } else { Chance::NEVER }
        };
        if random.chance(Chance::of(1, 3)) {
            damage.atlas = Atlas::draw(random, nodes, needed);
            damage.astray = often(random, &[Chance::of(1, 1000), Chance::of(1, 200), Chance::of(1, 30)]);
            damage.astray_to =
                random.pick(&[None, Some(Astray::Nowhere), Some(Astray::SameFile), Some(Astray::OtherFile)]);
            damage.torn = often(random, &[Chance::of(1, 10), Chance::of(1, 2), Chance::of(1, 1)]);
            damage.rot_every = random.chance(Chance::of(1, 2)).then(|| {
                let shortest = random.spread(pace / 2..=pace * 8);
                Duration::from_micros(shortest)..=Duration::from_micros(shortest * 3)
            });
            damage.grain = random.pick(&[None, Some(Grain::Bit), Some(Grain::Sector), Some(Grain::Block)]);
            damage.unreadable = random.pick(&[Chance::NEVER, Chance::of(1, 3), Chance::of(1, 1)]);
        }
        if random.chance(Chance::of(1, 4)) {
            let rare = [Chance::of(1, 3000), Chance::of(1, 500), Chance::of(1, 100)];
            damage.write_error = often(random, &rare);
            damage.sync_error = often(random, &rare);
        }
        if random.chance(Chance::of(1, 6)) {
            damage.full = random.pick(&[Chance::of(1, 10), Chance::of(1, 2), Chance::of(1, 1)]);
            damage.full_for = Duration::from_millis(1)..=Duration::from_micros(random.spread(pace..=pace * 10));
        }
        if random.chance(Chance::of(1, 8)) {
            damage.files_max = Some(random.within(6..=9) as u32);
        }
        damage
    }

    /// Draws the time to the next change of something stored; `None` if there is none.
    pub fn draw_wait(&self, random: &mut Random) -> Option<Duration> {
        let every = self.rot_every.clone().filter(|_| self.atlas.exposes_any())?;
        Some(random.spread_time(every))
    }

    /// Draws how much changes.
    pub fn draw_grain(&self, random: &mut Random) -> Grain {
        self.grain.unwrap_or_else(|| random.pick(&[Grain::Bit, Grain::Sector, Grain::Block]))
    }

    /// Draws where a write that goes astray ends.
    pub fn draw_astray(&self, random: &mut Random) -> Astray {
        self.astray_to.unwrap_or_else(|| random.pick(&[Astray::Nowhere, Astray::SameFile, Astray::OtherFile]))
    }
}
