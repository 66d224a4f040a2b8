//! Messages that are lost, late, repeated, or overtaken by others.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::random::{Chance, Random};

/// What happens to each packet.
#[derive(Clone, Debug)]
pub struct MessageFaults {
    /// It is lost.
    pub loss: Chance,
    /// It arrives twice.
    pub duplication: Chance,
    /// An old packet, of any link and of any earlier life of its sender, arrives again.
    pub replay: Chance,
    /// How long packets usually take.
    pub delay: RangeInclusive<Duration>,
    /// It takes much longer than that.
    pub late: Chance,
    /// How long it takes then.
    pub late_delay: RangeInclusive<Duration>,
    /// Packets of one link arrive in the order in which they were sent.
    pub in_order: bool,
    /// A cut link also stops what is on its way.
    pub cut_in_flight: bool,
}

const HEALTHY_DELAY: RangeInclusive<Duration> = Duration::from_micros(50)..=Duration::from_micros(400);

impl MessageFaults {
    /// A network without faults; what is on its way when its link is cut is lost.
    pub const NONE: MessageFaults = MessageFaults {
        loss: Chance::NEVER,
        duplication: Chance::NEVER,
        replay: Chance::NEVER,
        delay: HEALTHY_DELAY,
        late: Chance::NEVER,
        late_delay: HEALTHY_DELAY,
        in_order: true,
        cut_in_flight: true,
    };

    pub(super) fn draw(random: &mut Random, pace: u64) -> MessageFaults {
        let shares = [Chance::NEVER, Chance::NEVER, Chance::of(1, 1000), Chance::of(1, 50), Chance::of(1, 8)];
        let slowest = Duration::from_micros(random.spread(100..=pace / 4));
        MessageFaults {
            loss: random.pick(&[shares[0], shares[1], shares[2], shares[3], shares[4], Chance::of(3, 10)]),
            duplication: random.pick(&shares),
            replay: random.pick(&shares[..4]),
            delay: Duration::from_micros(50)..=slowest,
            late: random.pick(&shares[..4]),
            late_delay: slowest..=Duration::from_micros(random.spread(pace / 2..=pace * 20)),
            in_order: random.chance(Chance::of(1, 4)),
            cut_in_flight: random.chance(Chance::of(1, 2)),
        }
    }

    /// The same network without faults.
    #[must_use]
    pub fn healed(&self) -> MessageFaults {
        MessageFaults {
            loss: Chance::NEVER,
            duplication: Chance::NEVER,
            replay: Chance::NEVER,
            delay: HEALTHY_DELAY,
            late: Chance::NEVER,
            late_delay: HEALTHY_DELAY,
            // As a connection does: what is overtaken on its way to one that catches up is sent again, a round trip each.
            in_order: true,
            cut_in_flight: false,
        }
    }

    pub(crate) fn replays(&self) -> bool {
        self.replay > Chance::NEVER
    }

    pub(crate) fn draw_delay(&self, random: &mut Random) -> Duration {
        let range = if random.chance(self.late) { &self.late_delay } else { &self.delay };
        random.spread_time(range.clone())
    }
}
