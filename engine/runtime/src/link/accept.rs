//! A listener's door: who may come in, and the peer port behind it.
//!
//! Whoever connects waits in the *lobby* until it has introduced itself: shaken hands (under TLS) and said hello. The
//! lobby has [`LOBBY_MAX`] places, and when it is full the one that has waited longest makes way, so that silent
//! connections can't keep an honest one out: it needs its place for a few round trips only. Connections are taken at most
//! at [`ACCEPTS_PER_SECOND`], so that a flood of them leaves the shard its time; the kernel keeps the rest waiting.
//!
//! Of those who came in there are at most so many as the configuration says. One more takes the place of the client that has
//! been idle longest, or is refused. A peer has one connection for each channel:
//! a new one takes the place of the old one, which may be dead without having said so.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::{FutureExt as _, StreamExt as _};
use synod_frame::{Channel, GroupId, Hello, HelloRefusal, HelloReply};
use synod_protocol::{NodeId, Slot};

use super::connection::{Connection, Reading};
use super::handshake::{HELLO_DEADLINE, HandshakeError, Identity, of_tls, read_hello};
use super::passage::{Arrivals, Passages};
use super::receive::{self, ReceiveError};
use crate::meters::{Meters, PortMeter};
use crate::seam::local::Signal;
use crate::seam::net::{Listener, Stream};
use crate::seam::time::{sleep, within};
use crate::shard::Shard;
use crate::tls::{Door, Names, Tls};

/// Connections of one listener that haven't introduced themselves.
pub(crate) const LOBBY_MAX: usize = 256;

/// How long a connection that is in must have been idle before another one may have its place.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// Connections that a listener takes in a second, at most.
pub(crate) const ACCEPTS_PER_SECOND: u32 = 1000;

/// How finely that is measured.
const ACCEPT_WINDOW: Duration = Duration::from_millis(20);

const ACCEPTS_PER_WINDOW: u32 = ACCEPTS_PER_SECOND / (1000 / ACCEPT_WINDOW.as_millis() as u32);

/// Closed connections that are told of one by one in a [`COMPLAINTS_WINDOW`].
const COMPLAINTS_MAX: u32 = 20;

const COMPLAINTS_WINDOW: Duration = Duration::from_secs(10);

/// How long to wait when the process has no descriptors left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The connections of one listener.
#[derive(Debug)]
pub(crate) struct Connections {
    max: usize,
    /// By number.
    admitted: RefCell<BTreeMap<u64, Rc<Place>>>,
    numbers: Cell<u64>,
    /// Oldest first; raised to make way.
    lobby: RefCell<VecDeque<(u64, Rc<Signal>)>>,
    meters: Arc<Meters>,
    port: fn(&Meters) -> &PortMeter,
    tls: Option<Arc<Tls>>,
    door: Door,
    complaints: RefCell<Complaints>,
}

/// The place of a connection that is in.
#[derive(Debug, Default)]
struct Place {
    /// Since when nothing is under way over it; only those who say so can be asked to make way.
    idle_since: Cell<Option<Instant>>,
    /// Raised when the place is wanted.
    wanted: Signal,
}

/// How many closed connections the log tells of one by one; of the others it tells the number, for whoever floods a port
/// must not fill the disk with the news of it.
#[derive(Debug, Default)]
struct Complaints {
    since: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Complaints {
    /// Whether one more may be told; and how many weren't in the time that is over.
    fn admit(&mut self, now: Instant) -> (bool, u64) {
        let is_over = self.since.is_none_or(|since| now.saturating_duration_since(since) >= COMPLAINTS_WINDOW);
        let mut untold = 0;
        if is_over {
            (self.since, self.told) = (Some(now), 0);
            untold = std::mem::take(&mut self.untold);
        }
        let may = self.told < COMPLAINTS_MAX;
        if may {
            self.told += 1;
        } else {
            self.untold += 1;
        }
        (may, untold)
    }
}

impl Connections {
    /// None yet, of at most `max` that come in by `door`.
    pub(crate) fn new(max: usize, meters: Arc<Meters>, door: Door, tls: Option<Arc<Tls>>) -> Rc<Connections> {
        let port: fn(&Meters) -> &PortMeter = match door {
            Door::Peers => |meters| &meters.peer_port,
            Door::Clients => |meters| &meters.client_port,
        };
        let (admitted, numbers, lobby) = (RefCell::default(), Cell::new(0), RefCell::default());
        let complaints = RefCell::default();
        Rc::new(Connections { max, admitted, numbers, lobby, meters, port, tls, door, complaints })
    }

    fn meter(&self) -> &PortMeter {
        (self.port)(&self.meters)
    }

    /// Says that a connection came to nothing.
    pub(crate) fn complain(&self, address: SocketAddr, error: &HandshakeError) {
        let door = self.door;
        if error.is_absence() {
            return tracing::debug!(%address, %error, ?door, "a connection ended before its hello");
        }
        self.complain_of(|| tracing::warn!(%address, %error, ?door, "a connection was closed"));
    }

    /// Tells it, unless there was too much to tell already.
    pub(crate) fn complain_of(&self, tell: impl FnOnce()) {
        let (may, untold) = self.complaints.borrow_mut().admit(Instant::now());
        if untold > 0 {
            tracing::warn!(untold, door = ?self.door, "further connections were closed");
        }
        if may {
            tell();
        }
    }

    /// One that has come to the port.
    fn enter(self: &Rc<Self>) -> Newcomer {
        self.meter().accepted.add(1);
        self.receive()
    }

    /// One that the first shard has handed over, where it was counted.
    fn receive(self: &Rc<Self>) -> Newcomer {
        let number = self.numbers.replace(self.numbers.get() + 1);
        let crowded = Rc::new(Signal::default());
        let mut lobby = self.lobby.borrow_mut();
        if lobby.len() == LOBBY_MAX
            && let Some((_, oldest)) = lobby.pop_front()
        {
            self.meter().crowded_out.add(1);
            oldest.raise();
        }
        lobby.push_back((number, Rc::clone(&crowded)));
        drop(lobby);
        self.measure();
        Newcomer { connections: Rc::clone(self), number, crowded }
    }

    /// Takes its place from the connection that has been idle longest.
    fn make_room(&self, now: Instant) -> Result<(), HelloRefusal> {
        let mut admitted = self.admitted.borrow_mut();
        let idle = |(number, place): (&u64, &Rc<Place>)| place.idle_since.get().map(|since| (since, *number));
        let longest = admitted.iter().filter_map(idle).min();
        let number = longest
            .filter(|(since, _)| now.saturating_duration_since(*since) >= IDLE_MIN)
            .map(|(_, number)| number)
            .ok_or(HelloRefusal::TooManyConnections)?;
        if let Some(place) = admitted.remove(&number) {
            self.meter().crowded_out.add(1);
            place.wanted.raise();
        }
        Ok(())
    }

    fn measure(&self) {
        self.meter().open.set((self.lobby.borrow().len() + self.admitted.borrow().len()) as u64);
    }
}

/// A connection in the lobby; it leaves when dropped.
#[derive(Debug)]
pub(crate) struct Newcomer {
    connections: Rc<Connections>,
    number: u64,
    crowded: Rc<Signal>,
}

impl Newcomer {
    /// Lets it introduce itself: in time, and as long as it isn't crowded out. Counts those who come to nothing.
    pub(crate) async fn introduce<T>(
        &self,
        introduction: impl Future<Output = Result<T, HandshakeError>>,
    ) -> Result<T, HandshakeError> {
        let crowded = async {
            self.crowded.wait().await;
            Err(HandshakeError::Crowded)
        };
        let outcome = within(HELLO_DEADLINE, introduction.or(crowded)).await.unwrap_or(Err(HandshakeError::Timeout));
        if outcome.is_err() {
            self.connections.meter().refused.add(1);
        }
        outcome
    }

    /// Shakes hands, where the port asks for it. What its certificate says comes with the connection.
    pub(crate) async fn secure(&self, stream: Stream) -> Result<(Connection, Option<Names>), HandshakeError> {
        stream.set_nodelay()?;
        let Some(tls) = &self.connections.tls else { return Ok((Connection::Plain(stream), None)) };
        let connection = Connection::accept(stream, tls.accepting(self.connections.door)).await.map_err(of_tls)?;
        // A handshake without a certificate fails; no names are no rights in any case.
        let names = connection.certificate().map(|certificate| Names::of(certificate, tls.cluster()));
        Ok((connection, Some(names.unwrap_or_default())))
    }

    /// Leaves the lobby.
    pub(crate) fn leave(self) -> Rc<Connections> {
        Rc::clone(&self.connections)
    }

    /// One more that is in, unless there are too many: then whoever has been idle longest loses its place to it.
    pub(crate) fn admit(&self) -> Result<Admission, HelloRefusal> {
        let connections = &self.connections;
        if connections.admitted.borrow().len() >= connections.max {
            connections.make_room(Instant::now())?;
        }
        let place = Rc::new(Place::default());
        connections.admitted.borrow_mut().insert(self.number, Rc::clone(&place));
        Ok(Admission { connections: Rc::clone(connections), number: self.number, place })
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.connections.lobby.borrow_mut().retain(|(number, _)| *number != self.number);
        self.connections.measure();
    }
}

/// A connection that is in; it leaves when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    connections: Rc<Connections>,
    number: u64,
    place: Rc<Place>,
}

impl Admission {
    /// Says whether anything is under way over the connection.
    pub(crate) fn is_idle(&self, is_idle: bool) {
        if is_idle != self.place.idle_since.get().is_some() {
            self.place.idle_since.set(is_idle.then(Instant::now));
        }
    }

    /// Waits until its place is wanted.
    pub(crate) async fn make_way(&self) {
        self.place.wanted.wait().await;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.connections.admitted.borrow_mut().remove(&self.number);
        self.connections.measure();
    }
}

/// Accepts connections for ever and gives each to `serve`.
pub(crate) async fn accept_all(
    listener: Listener,
    connections: Rc<Connections>,
    mut serve: impl FnMut(Stream, SocketAddr, Newcomer),
) {
    let (mut window, mut taken) = (Instant::now(), 0);
    loop {
        match listener.accept().await {
            Ok((stream, Some(peer))) => serve(stream, peer, connections.enter()),
            Ok((_, None)) => {}
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                sleep(ACCEPT_RETRY).await;
            }
        }
        taken += 1;
        if taken == ACCEPTS_PER_WINDOW {
            sleep(ACCEPT_WINDOW.saturating_sub(window.elapsed())).await;
            (window, taken) = (Instant::now(), 0);
        }
    }
}

/// Who is connected from which peer by which channel. Whoever comes later takes the place.
#[derive(Debug, Default)]
struct Places(RefCell<BTreeMap<(NodeId, u8), Rc<Signal>>>);

impl Places {
    /// Raised when another connection takes the place.
    fn take(&self, peer: NodeId, channel: Channel) -> Rc<Signal> {
        let replaced = Rc::new(Signal::default());
        let before = self.0.borrow_mut().insert((peer, channel as u8), Rc::clone(&replaced));
        if let Some(before) = before {
            before.raise();
        }
        replaced
    }
}

/// A group as its peers reach it.
pub(crate) struct Seat {
    pub(crate) shard: Rc<Shard>,
    pub(crate) identity: Rc<Identity>,
    places: Places,
}

impl Seat {
    pub(crate) fn new(shard: Rc<Shard>, identity: Rc<Identity>) -> Rc<Seat> {
        Rc::new(Seat { shard, identity, places: Places::default() })
    }
}

/// The groups of one shard, at least one, behind the peer port.
#[derive(Clone)]
pub(crate) struct Hall(Rc<[Rc<Seat>]>);

impl Hall {
    pub(crate) fn new(seats: Vec<Rc<Seat>>) -> Hall {
        assert!(!seats.is_empty(), "a shard has a group");
        Hall(seats.into())
    }

    /// The one that answers for those who belong to none.
    fn first(&self) -> &Rc<Seat> {
        &self.0[0]
    }

    /// Whom it answers as.
    pub(crate) fn identity(&self) -> Rc<Identity> {
        Rc::clone(&self.first().identity)
    }

    fn seat(&self, group: GroupId) -> Option<&Rc<Seat>> {
        self.0.iter().find(|seat| seat.identity.group() == group)
    }
}

/// Serves the peer port, for the groups here and, by handing over, for those of other shards.
pub(crate) async fn serve_peers(hall: Hall, listener: Listener, connections: Rc<Connections>, passages: Passages) {
    let tasks = Rc::clone(&hall.first().shard.tasks);
    let passages = Rc::new(passages);
    accept_all(listener, connections, move |stream, address, newcomer| {
        let (hall, passages) = (hall.clone(), Rc::clone(&passages));
        tasks.spawn(async move {
            if passages.is_empty() {
                return serve_peer(&hall, stream, address, newcomer).await;
            }
            let is_tls = newcomer.connections.tls.is_some();
            match newcomer.introduce(passages.hand_over(stream, address, is_tls)).await {
                Ok(Some(stream)) => serve_peer(&hall, stream, address, newcomer).await,
                Ok(None) => {}
                Err(error) => newcomer.leave().complain(address, &error),
            }
        });
    })
    .await;
}

/// Serves what the first shard hands over to this one.
pub(crate) async fn serve_arrivals(hall: Hall, mut arrivals: Arrivals, connections: Rc<Connections>) {
    while let Some((socket, address)) = arrivals.next().await {
        let (hall, newcomer) = (hall.clone(), connections.receive());
        let tasks = Rc::clone(&hall.first().shard.tasks);
        tasks.spawn(async move { serve_peer(&hall, Stream::adopt(socket), address, newcomer).await });
    }
}

async fn serve_peer(hall: &Hall, stream: Stream, address: SocketAddr, newcomer: Newcomer) {
    let introduced = newcomer.introduce(welcome(hall, stream, &newcomer)).await;
    let connections = newcomer.leave();
    match introduced {
        // In the group's own queue, so that each gets its part of a busy thread.
        Ok(introduced) => {
            let tasks = Rc::clone(&introduced.seat.shard.tasks);
            tasks.spawn(async move { receive_from(introduced, address, &connections).await });
        }
        Err(error) => {
            hall.first().shard.count(|counters| counters.refusals += u64::from(!error.is_absence()));
            connections.complain(address, &error);
        }
    }
}

/// A peer's connection that is in.
struct Introduced {
    seat: Rc<Seat>,
    peer: NodeId,
    store: [u8; 16],
    /// Where the newest configuration was chosen that it knew.
    configuration: Slot,
    channel: Channel,
    port: u16,
    format_max: u16,
    reading: Reading,
    _admission: Admission,
}

async fn receive_from(introduced: Introduced, address: SocketAddr, connections: &Connections) {
    let Introduced { seat, peer, store, configuration, channel, port, format_max, reading, _admission } = introduced;
    let shard = &seat.shard;
    shard.hear_reader(peer, format_max);
    match shard.link_to(peer) {
        Some(link) => link.peer_is_alive(),
        // Nobody has told yet where it listens: it has.
        None if port != 0 => shard.meet(peer, SocketAddr::new(address.ip(), port)),
        None => {}
    }
    let replaced = seat.places.take(peer, channel);
    let ear = receive::Ear { shard, peer, store, configuration, identity: &seat.identity };
    let receiving = async {
        match channel {
            Channel::Bulk => receive::receive_bulk(&ear, reading).await,
            _ => receive::receive_control(&ear, reading).await,
        }
    };
    let silence = async {
        shard.wait_until_stopped().await;
        ReceiveError::Io(io::ErrorKind::ConnectionAborted.into())
    };
    let replaced = async {
        replaced.wait().await;
        ReceiveError::Replaced
    };
    let end = receiving.or(silence).or(replaced).await;
    if end.is_end_of_stream() {
        tracing::debug!(%peer, %address, ?channel, %end, "the peer's connection ended");
    } else {
        shard.count(|counters| counters.refusals += 1);
        connections.complain_of(|| {
            tracing::warn!(%peer, %address, ?channel, error = %end, "a peer's connection was closed");
        });
    }
}

/// Hears a peer's hello and answers it.
async fn welcome(hall: &Hall, stream: Stream, newcomer: &Newcomer) -> Result<Introduced, HandshakeError> {
    let (mut connection, names) = newcomer.secure(stream).await?;
    let hello = read_hello(&mut connection, Hello::decode).await?;
    let asked = hall.seat(hello.group);
    let seat = Rc::clone(asked.unwrap_or(hall.first()));
    let (shard, identity) = (&seat.shard, &seat.identity);
    let channel = if hello.channel == Channel::Client { Channel::Control } else { hello.channel };
    let own = identity.hello(channel, hello.from, shard.position());
    let outcome = if shard.is_stopped() {
        Err(HelloRefusal::Shutdown)
    } else {
        hello.check(&own).and_then(|format| {
            // The name that it goes by must be in its certificate: a node can't speak for another one.
            if names.is_some_and(|names| !names.nodes.contains(&hello.from)) {
                tracing::warn!(from = %hello.from, "a hello from a node that its certificate doesn't name");
                return Err(HelloRefusal::UnknownNode { configuration: identity.configuration() });
            }
            if asked.is_none() {
                return Err(HelloRefusal::Group { group: hello.group });
            }
            identity.judge(&hello).map(|()| format)
        })
    };
    if outcome.is_ok() {
        identity.keep_boots().await;
    }
    let (outcome, admission) = match outcome.and_then(|format| Ok((format, newcomer.admit()?))) {
        Ok((format, admission)) => (Ok(format), Some(admission)),
        Err(refusal) => (Err(refusal), None),
    };
    connection.write_all(&HelloReply { hello: own, outcome }.encode()).await?;
    outcome.map_err(HandshakeError::Refused)?;
    let admission = admission.ok_or(HandshakeError::Refused(HelloRefusal::TooManyConnections))?;
    let (peer, port, format_max) = (hello.from, hello.port, hello.format_max);
    let (store, configuration) = (hello.incarnation, hello.configuration);
    let reading = connection.into_reading();
    Ok(Introduced { seat, peer, store, configuration, channel, port, format_max, reading, _admission: admission })
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn who_waits_longest_makes_way_and_who_is_in_stays() {
        let connections = Connections::new(1, Arc::new(Meters::new()), Door::Peers, None);
        let first = connections.enter();
        let admission = first.admit().expect("there is room for one");
        let second = connections.enter();
        assert_eq!(second.admit().err(), Some(HelloRefusal::TooManyConnections));
        drop(admission);
        // One that is idle makes way as well, but not at once.
        let admission = second.admit().expect("there is room for one");
        admission.is_idle(true);
        assert!(first.admit().is_err());
        let later = Instant::now() + IDLE_MIN;
        assert_eq!(connections.make_room(later), Ok(()));
        assert!(block_on(poll_once(admission.make_way())).is_some());
        assert!(first.admit().is_ok());
        drop(admission);
        let others: Vec<Newcomer> = (0..LOBBY_MAX - 1).map(|_| connections.enter()).collect();
        assert!(block_on(poll_once(first.crowded.wait())).is_some(), "the first has waited longest");
        assert!(block_on(poll_once(second.crowded.wait())).is_none());
        assert_eq!(connections.meter().crowded_out.value(), 2, "the idle one, and the first");
        assert_eq!(connections.meter().open.value(), LOBBY_MAX as u64);
        drop((first, second, others));
        assert_eq!(connections.meter().open.value(), 0);
    }

    #[test]
    fn a_flood_is_told_by_its_number() {
        let mut complaints = Complaints::default();
        let begun = Instant::now();
        let told = (0..1000).filter(|_| complaints.admit(begun).0).count();
        assert_eq!(told, COMPLAINTS_MAX as usize);
        assert_eq!(complaints.admit(begun + COMPLAINTS_WINDOW), (true, 1000 - told as u64));
        assert_eq!(complaints.admit(begun + 2 * COMPLAINTS_WINDOW), (true, 0));
    }

    #[test]
    fn a_peers_later_connection_takes_the_place_of_its_earlier_one() {
        let places = Places::default();
        let first = places.take(NodeId(2), Channel::Bulk);
        let other = places.take(NodeId(2), Channel::Control);
        let _second = places.take(NodeId(2), Channel::Bulk);
        assert!(block_on(poll_once(first.wait())).is_some());
        assert!(block_on(poll_once(other.wait())).is_none());
    }
}
