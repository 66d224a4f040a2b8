//! Which stores of its peers a node talks to: the one rule by which every hello is judged, over sockets and in the
//! simulator alike.
//!
//! A store is known by its incarnation, the random uuid of its directory; each start of it has a number, the *boot
//! counter*, and a random *nonce*. What a node knows of a peer's store: that the configurations name it, the highest boot
//! counter with its nonce, and how much of the chosen prefix it has shown to be durable there. A store that comes with less
//! than that has forgotten something, and a promise or an accept may be among it, so it must not vote:
//!
//! | what a hello says | verdict |
//! |---|---|
//! | a node that no configuration names, and no newer configuration than this node's | unknown node |
//! | another store than the configurations name for the node | wiped, swapped, or replaced: wrong incarnation |
//! | the same, by a node that knows a newer configuration | its news are heard, its votes aren't |
//! | an earlier boot than was seen, or a shorter prefix | rolled back |
//! | the boot that was seen, with another nonce | twin: two processes on copies of one store |
//! | anything else | welcome, and remembered |
//!
//! The third row is for those who were away while a node came back with a new store: the new one may be the only one that
//! leads them to the configuration which names it. A vote of it in an older configuration would be one of two that the node
//! has there.
//!
//! A wiped store is always found out. One that was rolled back is found out by whoever remembers more of it than it says: so
//! whoever keeps this keeps a boot durably before it hears anything of it ([`PeerStores::boots`]). What
//! a store has shown of its prefix may be kept later: then less can be noticed.

use std::collections::BTreeMap;

use synod_frame::{ConfigurationBody, Hello, HelloRefusal};
use synod_protocol::{NodeId, Slot};

/// Most stores that are remembered: all members and learners of several configurations.
pub const STORES_SEEN_MAX: usize = 64;

/// The most that was seen of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSeen {
    /// The store.
    pub incarnation: [u8; 16],
    /// The highest boot counter.
    pub boot_counter: u64,
    /// The nonce of that boot.
    pub boot_nonce: u64,
    /// The end of the chosen prefix that it had durably.
    pub stable: Slot,
}

/// How much is heard of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// Everything.
    Full,
    /// Everything but votes ([`synod_protocol::Message::is_vote`]).
    News,
}

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct PeerStores {
    node: NodeId,
    /// Where the newest configuration was chosen that is delivered.
    configuration: Slot,
    /// Everybody whom a configuration names that may still be needed, with the store that counts.
    stores: BTreeMap<NodeId, [u8; 16]>,
    /// The most that was ever seen of each store.
    seen: BTreeMap<[u8; 16], StoreSeen>,
    /// What was seen has changed since it was last taken to be kept.
    has_news: bool,
    /// How many boots it has welcomed that it hadn't seen before.
    boots: u64,
}

impl PeerStores {
    /// What the node `node` remembers, and nothing of any configuration yet.
    pub fn new(node: NodeId, seen: impl IntoIterator<Item = StoreSeen>) -> PeerStores {
        PeerStores {
            node,
            configuration: Slot(0),
            stores: BTreeMap::new(),
            seen: seen.into_iter().map(|store| (store.incarnation, store)).collect(),
            has_news: false,
            boots: 0,
        }
    }

    /// Takes note of the configurations that may still be needed: of several stores of a node, the last one counts. `newest`
    /// is where the last configuration was chosen that is delivered. Gives the nodes for which another store counts from
    /// now on: connections to their old ones are over.
    pub fn know<'a>(
        &mut self,
        newest: Slot,
        configurations: impl Iterator<Item = &'a ConfigurationBody>,
    ) -> Vec<NodeId> {
        let members = configurations.flat_map(ConfigurationBody::nodes);
        let stores: BTreeMap<_, _> = members.map(|member| (member.node, member.incarnation)).collect();
        let is_other = |(node, store): &(&NodeId, &[u8; 16])| stores.get(node).is_some_and(|other| other != *store);
        let changed = self.stores.iter().filter(is_other).map(|(node, _)| *node).collect();
        self.has_news |= stores != self.stores;
        (self.configuration, self.stores) = (newest, stores);
        changed
    }

    /// Where the newest configuration was chosen that this node knows.
    pub fn configuration(&self) -> Slot {
        self.configuration
    }

    /// The store that counts for a node; none if no configuration names the node.
    pub fn store_of(&self, node: NodeId) -> Option<[u8; 16]> {
        self.stores.get(&node).copied()
    }

    /// A peer has shown that it durably has the chosen prefix up to `stable`.
    pub fn has_shown(&mut self, peer: NodeId, stable: Slot) {
        let store = self.stores.get(&peer).and_then(|store| self.seen.get_mut(store));
        if let Some(store) = store.filter(|store| store.stable < stable) {
            store.stable = stable;
            self.has_news = true;
        }
    }

    /// What should be kept of the stores that have a part in the log.
    pub fn seen(&self) -> Vec<StoreSeen> {
        self.stores.values().filter_map(|store| self.seen.get(store)).copied().collect()
    }

    /// The same, if it has changed since this was last asked.
    pub fn take_news(&mut self) -> Option<Vec<StoreSeen>> {
        std::mem::replace(&mut self.has_news, false).then(|| self.seen())
    }

    /// How many boots were welcomed that hadn't been seen before. As long as what was seen isn't kept as of this count,
    /// none of those may be heard.
    pub fn boots(&self) -> u64 {
        self.boots
    }

    /// How much is heard of whoever is connected with this store, and knew the configuration chosen at `configuration` when
    /// it introduced itself; nothing if another store counts by now.
    pub fn hears(&self, node: NodeId, store: [u8; 16], configuration: Slot) -> Option<Hearing> {
        match self.stores.get(&node) {
            Some(named) if *named != store => (configuration > self.configuration).then_some(Hearing::News),
            // The protocol heeds those whom no configuration names only if they know more.
            _ => Some(Hearing::Full),
        }
    }

    /// Judges a peer's hello, beyond what [`Hello::check`] can, and remembers it if it is welcome. How much is heard of it, see
    /// [`PeerStores::hears`].
    ///
    /// # Errors
    /// Why nothing that it says may be heard.
    pub fn judge(&mut self, hello: &Hello) -> Result<(), HelloRefusal> {
        if hello.from == self.node {
            // Another process with this node's name, or this very process.
            return Err(HelloRefusal::Node { node: self.node });
        }
        match self.stores.get(&hello.from) {
            Some(expected) if *expected != hello.incarnation && hello.configuration <= self.configuration => {
                return Err(HelloRefusal::Incarnation { expected: *expected });
            }
            Some(_) => {}
            // It may have come in by a configuration that this node is about to learn, from it perhaps. What it says is
            // judged by the protocol, which heeds only those who know more.
            None if hello.configuration > self.configuration => {}
            None => return Err(HelloRefusal::UnknownNode { configuration: self.configuration }),
        }
        self.judge_store(hello)
    }

    /// Whether a store has all that it ever showed.
    fn judge_store(&mut self, hello: &Hello) -> Result<(), HelloRefusal> {
        let Hello { incarnation, boot_counter, boot_nonce, stable, .. } = *hello;
        let first = StoreSeen { incarnation, boot_counter: 0, boot_nonce: 0, stable: Slot(0) };
        let known = self.seen.get(&incarnation).copied().unwrap_or(first);
        // A log that is damaged doesn't tell how far it was.
        if boot_counter < known.boot_counter || stable < known.stable && stable != Slot(0) {
            return Err(HelloRefusal::RolledBack { boot_counter: known.boot_counter, stable: known.stable });
        }
        if boot_counter == known.boot_counter && boot_nonce != known.boot_nonce {
            return Err(HelloRefusal::Twin { boot_counter });
        }
        let now = StoreSeen { boot_counter, boot_nonce, stable: stable.max(known.stable), ..known };
        self.boots += u64::from(boot_counter > known.boot_counter);
        self.has_news |= known != now;
        self.make_room(incarnation);
        self.seen.insert(incarnation, now);
        Ok(())
    }

    /// Forgets a store that has no part, if another one is seen and there are as many as are remembered.
    fn make_room(&mut self, for_store: [u8; 16]) {
        if self.seen.len() < STORES_SEEN_MAX || self.seen.contains_key(&for_store) {
            return;
        }
        let has_part = |store: &[u8; 16]| self.stores.values().any(|other| other == store);
        if let Some(store) = self.seen.keys().find(|store| !has_part(store)).copied() {
            self.seen.remove(&store);
        }
    }
}

#[cfg(test)]
mod tests {
    use synod_frame::{Channel, FORMAT_VERSION, GroupId, Member};
    use synod_protocol::Ballot;

    use super::*;

    fn member(node: u32) -> Member {
        Member { node: NodeId(node), incarnation: [node as u8; 16] }
    }

    fn naming(members: Vec<Member>) -> ConfigurationBody {
        ConfigurationBody { members, ..ConfigurationBody::default() }
    }

    /// Those of node 1 of three.
    fn stores() -> PeerStores {
        let mut stores = PeerStores::new(NodeId(1), []);
        stores.know(Slot(0), std::iter::once(&naming(vec![member(1), member(2), member(3)])));
        stores
    }

    fn hello_of(node: u32) -> Hello {
        Hello {
            channel: Channel::Control,
            format_min: FORMAT_VERSION,
            format_max: FORMAT_VERSION,
            features: 0,
            cluster: [9; 16],
            lineage: 1,
            from: NodeId(node),
            to: NodeId(1),
            incarnation: [node as u8; 16],
            boot_counter: 4,
            boot_nonce: 77,
            promise: Ballot::ZERO,
            durable: 0,
            configuration: Slot(0),
            port: 7001,
            stable: Slot(0),
            group: GroupId(0),
        }
    }

    #[test]
    fn members_are_welcome_with_their_own_store_only() {
        let mut stores = stores();
        assert_eq!(stores.judge(&hello_of(2)), Ok(()));
        assert_eq!(stores.judge(&hello_of(4)), Err(HelloRefusal::UnknownNode { configuration: Slot(0) }));
        assert_eq!(stores.judge(&Hello { configuration: Slot(9), ..hello_of(4) }), Ok(()), "it knows more");
        let wiped = Hello { incarnation: [8; 16], ..hello_of(2) };
        assert_eq!(stores.judge(&wiped), Err(HelloRefusal::Incarnation { expected: [2; 16] }));
        assert_eq!(stores.judge(&hello_of(1)), Err(HelloRefusal::Node { node: NodeId(1) }));
    }

    #[test]
    fn a_node_that_comes_back_with_another_store_speaks_by_that_one_only() {
        let mut stores = stores();
        assert_eq!(stores.judge(&hello_of(3)), Ok(()));
        let renewed = Member { incarnation: [33; 16], ..member(3) };
        assert_eq!(stores.know(Slot(5), std::iter::once(&naming(vec![member(1), member(2)]))), [], "it is gone");
        let hears = |stores: &PeerStores, known| stores.hears(NodeId(3), [3; 16], Slot(known));
        assert_eq!(hears(&stores, 0), Some(Hearing::Full), "who was removed disturbs nobody");
        assert_eq!(stores.know(Slot(9), std::iter::once(&naming(vec![member(1), member(2), renewed]))), []);
        assert_eq!((hears(&stores, 9), hears(&stores, 10)), (None, Some(Hearing::News)));
        assert_eq!(stores.judge(&hello_of(3)), Err(HelloRefusal::Incarnation { expected: [33; 16] }));
        assert_eq!(stores.judge(&Hello { incarnation: [33; 16], boot_counter: 1, ..hello_of(3) }), Ok(()));
        let changed = stores.know(Slot(12), std::iter::once(&naming(vec![member(1), member(2), member(3)])));
        assert_eq!(changed, [NodeId(3)]);
    }

    #[test]
    fn whoever_was_away_hears_news_of_a_new_store_and_no_votes() {
        let mut stores = stores();
        let renewed = Hello { incarnation: [33; 16], configuration: Slot(9), ..hello_of(3) };
        assert_eq!(stores.judge(&renewed), Ok(()));
        assert_eq!(stores.hears(NodeId(3), [33; 16], Slot(9)), Some(Hearing::News));
        let named = naming(vec![member(1), member(2), Member { incarnation: [33; 16], ..member(3) }]);
        stores.know(Slot(9), std::iter::once(&named));
        assert_eq!(stores.hears(NodeId(3), [33; 16], Slot(9)), Some(Hearing::Full));
        stores.know(Slot(9), std::iter::once(&naming(vec![member(1), member(2), member(3)])));
        assert_eq!(stores.hears(NodeId(3), [33; 16], Slot(9)), None, "it wasn't named there");
    }

    #[test]
    fn a_store_that_went_back_in_time_is_refused() {
        let mut stores = stores();
        let hello = |boot_counter, stable| Hello { boot_counter, stable: Slot(stable), ..hello_of(2) };
        let refusal = Err(HelloRefusal::RolledBack { boot_counter: 7, stable: Slot(50) });
        assert_eq!(stores.judge(&hello(7, 50)), Ok(()));
        assert_eq!(stores.judge(&hello(7, 50)), Ok(()));
        assert_eq!(stores.judge(&hello(6, 50)), refusal, "an earlier boot");
        assert_eq!(stores.judge(&hello(8, 49)), refusal, "a later boot of an earlier state");
        assert_eq!(stores.judge(&hello(8, 0)), Ok(()), "it doesn't tell");
        stores.has_shown(NodeId(2), Slot(60));
        let kept = stores.take_news().expect("it has shown more");
        assert_eq!(kept, [StoreSeen { incarnation: [2; 16], boot_counter: 8, boot_nonce: 77, stable: Slot(60) }]);
        assert_eq!(stores.take_news(), None);
        // The next process remembers.
        let mut next = PeerStores::new(NodeId(1), kept);
        let late = Hello { configuration: Slot(1), ..hello(9, 59) };
        assert_eq!(next.judge(&late), Err(HelloRefusal::RolledBack { boot_counter: 8, stable: Slot(60) }));
    }

    #[test]
    fn boots_are_counted() {
        let mut stores = stores();
        assert_eq!(stores.judge(&hello_of(2)), Ok(()));
        assert_eq!((stores.boots(), stores.seen().len()), (1, 1));
        assert_eq!(stores.judge(&Hello { stable: Slot(9), ..hello_of(2) }), Ok(()));
        assert_eq!(stores.boots(), 1, "the same boot, which has shown more");
        assert_eq!(stores.judge(&Hello { boot_counter: 5, stable: Slot(9), ..hello_of(2) }), Ok(()));
        assert_eq!(stores.boots(), 2);
    }

    #[test]
    fn of_two_processes_on_copies_of_a_store_the_second_is_refused() {
        let mut stores = stores();
        assert_eq!(stores.judge(&Hello { boot_counter: 7, boot_nonce: 1, ..hello_of(2) }), Ok(()));
        let twin = Hello { boot_counter: 7, boot_nonce: 2, ..hello_of(2) };
        assert_eq!(stores.judge(&twin), Err(HelloRefusal::Twin { boot_counter: 7 }));
        assert_eq!(stores.judge(&Hello { boot_counter: 7, boot_nonce: 1, ..hello_of(2) }), Ok(()));
    }

    #[test]
    fn strangers_dont_fill_the_memory() {
        let mut stores = stores();
        assert_eq!(stores.judge(&hello_of(2)), Ok(()));
        for number in 0..1000u32 {
            let mut incarnation = [200; 16];
            incarnation[..4].copy_from_slice(&number.to_le_bytes());
            let stranger = Hello { incarnation, configuration: Slot(1), ..hello_of(1000 + number) };
            assert_eq!(stores.judge(&stranger), Ok(()));
        }
        assert_eq!(stores.seen.len(), STORES_SEEN_MAX);
        assert!(stores.seen.contains_key(&[2; 16]));
    }
}
