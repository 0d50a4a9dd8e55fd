//! One model's copies: which to choose, what each has in flight, and the queue for a copy with limited concurrency.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::endpoint::{Endpoint, EndpointKind};
use crate::lock::lock;
use crate::metadata::IdHeaders;

/// A model that has a route, or requests in flight.
pub struct Model {
    id: Box<str>,
    /// Boxed, since most models are never asked for here.
    id_headers: OnceLock<Box<IdHeaders>>,
    /// In the list of models used since the last report.
    reported: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    copies: Vec<Copy>,
    /// Advances with each choice, so that equal copies take turns.
    turn: u32,
    /// Requests at the local runtime or queued for it.
    local_in_flight: u32,
    /// Boxed, as is the limit, since most models are on other instances.
    tally: Option<Box<Tally>>,
    limit: Option<Box<Limit>>,
    /// No longer in the table: whoever still holds it must look again.
    detached: bool,
}

/// What the local copy did since the last report.
#[derive(Default)]
struct Tally {
    requests: u32,
    last_used_ms: u64,
    /// Requests that the runtime answered, and how long it took for all of them.
    answers: u32,
    service_time: Duration,
    /// The most of `local_in_flight`, and of those queued.
    most_in_flight: u32,
    most_queued: u32,
}

/// One endpoint of a route. It stays, unlisted, while requests are in flight there.
struct Copy {
    endpoint: Arc<Endpoint>,
    in_flight: u32,
    turn: u32,
    listed: bool,
}

/// How many requests the local copy takes at once, and who waits, in order of arrival.
struct Limit {
    max: u32,
    /// Negative: any number.
    max_queued: i64,
    next_number: u64,
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

/// What a choice looks for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// Endpoints not to be tried again.
    pub avoid: &'a [u32],
    /// Only the local runtime will do.
    pub local_only: bool,
    /// The caller spreads its requests by itself: take the local copy if there is one without a limit.
    pub prefer_local: bool,
}

/// The outcome of a choice.
pub enum Choice {
    Ready(Lease),
    Queued(Ticket),
    /// No copy is left but the local one, and its queue is full.
    Full,
    None,
}

/// Usage of the local copy since the last report.
pub struct Usage {
    pub model_id: String,
    pub last_used_ms: u64,
    pub requests: u32,
    pub in_flight: u32,
    pub most_in_flight: u32,
    pub queued: u32,
    pub most_queued: u32,
    pub answers: u32,
    pub service_time: Duration,
}

/// What changed for the table's count of routes.
pub struct Listed {
    pub before: bool,
    pub after: bool,
}

impl Model {
    pub fn new(id: &str) -> Model {
        Model { id: id.into(), id_headers: OnceLock::new(), reported: AtomicBool::new(false), state: Mutex::default() }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// The id as the next hop is to get it.
    pub fn id_headers(&self) -> &IdHeaders {
        self.id_headers.get_or_init(|| Box::new(IdHeaders::new(&self.id)))
    }

    /// True for the first use since the last report, when the model is to be put on the list.
    pub fn to_be_reported(&self) -> bool {
        !self.reported.load(Ordering::Relaxed) && !self.reported.swap(true, Ordering::AcqRel)
    }

    /// Chooses the copy with the fewest requests in flight, the local one among equals, else the one whose turn it is.
    ///
    /// An endpoint that could not be connected to a moment ago is the last choice.
    pub fn choose(self: &Arc<Self>, wanted: Wanted<'_>, now_ms: u64) -> Choice {
        let mut state = lock(&self.state);
        let mut full = false;
        let mut best = None;
        for (index, copy) in state.copies.iter().enumerate() {
            let endpoint = &copy.endpoint;
            let local = endpoint.kind == EndpointKind::Runtime;
            let usable = copy.listed
                && !endpoint.is_removed()
                && (local || !wanted.local_only)
                && !wanted.avoid.contains(&endpoint.id);
            if !usable {
                continue;
            }
            if local && state.is_full() {
                full = true;
                continue;
            }
            let preferred = local && wanted.prefer_local && state.limit.is_none();
            let rank = (endpoint.is_down(now_ms), !preferred, copy.in_flight, !local, copy.turn);
            if best.is_none_or(|(_, other)| rank < other) {
                best = Some((index, rank));
            }
        }
        match best {
            Some((index, _)) => self.take(&mut state, index, now_ms),
            None if full => Choice::Full,
            None => Choice::None,
        }
    }

    /// Takes the copy at `endpoint` whether it is listed or not. None where the model has left the table.
    pub fn take_at(self: &Arc<Self>, endpoint: &Arc<Endpoint>, now_ms: u64) -> Option<Choice> {
        let mut state = lock(&self.state);
        if state.detached {
            return None;
        }
        if endpoint.kind == EndpointKind::Runtime && state.is_full() {
            return Some(Choice::Full);
        }
        let index = state.position(endpoint);
        Some(self.take(&mut state, index, now_ms))
    }

    fn take(self: &Arc<Self>, state: &mut State, index: usize, now_ms: u64) -> Choice {
        let has_room = state.has_room();
        state.turn = state.turn.wrapping_add(1);
        let turn = state.turn;
        let copy = &mut state.copies[index];
        copy.turn = turn;
        copy.in_flight += 1;
        let limited = state.limit.is_some();
        let lease = Lease { model: Arc::clone(self), endpoint: Arc::clone(&copy.endpoint), limited, served: None };
        if lease.endpoint.kind != EndpointKind::Runtime {
            return Choice::Ready(lease);
        }
        state.local_in_flight += 1;
        let State { local_in_flight, tally, limit, .. } = state;
        let tally = tally.get_or_insert_with(Box::default);
        tally.most_in_flight = tally.most_in_flight.max(*local_in_flight);
        tally.requests = tally.requests.saturating_add(1);
        tally.last_used_ms = now_ms;
        match limit {
            Some(limit) if !has_room => {
                let (sender, granted) = oneshot::channel();
                let number = limit.next_number;
                limit.next_number += 1;
                limit.waiting.insert(number, sender);
                tally.most_queued = tally.most_queued.max(limit.queued());
                Choice::Queued(Ticket { number, granted, lease: Some(lease) })
            }
            _ => Choice::Ready(lease),
        }
    }

    /// Sets the route. None where the model has left the table.
    pub fn set(&self, endpoints: &[Arc<Endpoint>], max_concurrency: u32, max_queued: i64) -> Option<Listed> {
        let mut state = lock(&self.state);
        if state.detached {
            return None;
        }
        let before = state.is_listed();
        for copy in &mut state.copies {
            copy.listed = false;
        }
        for endpoint in endpoints {
            let index = state.position(endpoint);
            state.copies[index].listed = true;
        }
        state.copies.retain(|copy| copy.listed || copy.in_flight > 0);
        let rerouted = state.set_limit(max_concurrency, max_queued);
        let granted = state.grant();
        let after = state.is_listed();
        drop(state);
        drop(rerouted);
        wake(granted);
        Some(Listed { before, after })
    }

    /// Takes all endpoints out of the route.
    pub fn clear(&self) -> Listed {
        let mut state = lock(&self.state);
        let before = state.is_listed();
        for copy in &mut state.copies {
            copy.listed = false;
        }
        state.copies.retain(|copy| copy.in_flight > 0);
        let rerouted = state.take_waiting();
        drop(state);
        drop(rerouted);
        Listed { before, after: false }
    }

    /// Marks the model as gone from the table if nothing of it is left; the caller holds the table's lock.
    pub fn detach_if_idle(&self) -> bool {
        let mut state = lock(&self.state);
        if state.copies.iter().all(|copy| !copy.listed && copy.in_flight == 0) {
            state.detached = true;
        }
        state.detached
    }

    pub fn endpoints(&self) -> Vec<u32> {
        let state = lock(&self.state);
        let usable = state.copies.iter().filter(|copy| copy.listed && !copy.endpoint.is_removed());
        usable.map(|copy| copy.endpoint.id).collect()
    }

    /// Takes the local copy out of the route if nothing is in flight there. Returns the number in flight.
    pub fn close_local(&self) -> (u32, Listed) {
        let mut state = lock(&self.state);
        let before = state.is_listed();
        if state.local_in_flight == 0 {
            state.copies.retain(|copy| copy.endpoint.kind != EndpointKind::Runtime);
        }
        (state.local_in_flight, Listed { before, after: state.is_listed() })
    }

    pub fn local_in_flight(&self) -> u32 {
        lock(&self.state).local_in_flight
    }

    /// Usage since the last call. With nothing in flight, which is told once, the model is off the list.
    pub fn take_usage(&self) -> Usage {
        let mut state = lock(&self.state);
        let (in_flight, queued) = (state.local_in_flight, state.limit.as_ref().map_or(0, |limit| limit.queued()));
        if in_flight == 0 {
            self.reported.store(false, Ordering::Release);
        }
        let tally = state.tally.get_or_insert_with(Box::default);
        let next = Tally {
            last_used_ms: tally.last_used_ms,
            most_in_flight: in_flight,
            most_queued: queued,
            ..Tally::default()
        };
        let told = std::mem::replace(&mut **tally, next);
        Usage {
            model_id: self.id.to_string(),
            last_used_ms: told.last_used_ms,
            requests: told.requests,
            in_flight,
            most_in_flight: told.most_in_flight,
            queued,
            most_queued: told.most_queued,
            answers: told.answers,
            service_time: told.service_time,
        }
    }

    fn release(&self, endpoint: &Endpoint, served: Option<Duration>) {
        let mut state = lock(&self.state);
        if let (Some(time), Some(tally)) = (served, &mut state.tally) {
            tally.answers = tally.answers.saturating_add(1);
            tally.service_time += time;
        }
        if let Some(index) = state.copies.iter().position(|copy| copy.endpoint.id == endpoint.id) {
            let copy = &mut state.copies[index];
            copy.in_flight -= 1;
            if copy.in_flight == 0 && !copy.listed {
                state.copies.remove(index);
            }
        }
        if endpoint.kind == EndpointKind::Runtime {
            state.local_in_flight -= 1;
            if state.limit.is_some() {
                let granted = state.grant();
                drop(state);
                wake(granted);
            }
        }
    }

    fn leave_queue(&self, number: u64) {
        if let Some(limit) = &mut lock(&self.state).limit {
            limit.waiting.remove(&number);
        }
    }
}

impl Limit {
    fn queued(&self) -> u32 {
        u32::try_from(self.waiting.len()).unwrap_or(u32::MAX)
    }
}

impl State {
    fn is_listed(&self) -> bool {
        self.copies.iter().any(|copy| copy.listed)
    }

    /// The endpoint's place among the copies, made if need be.
    fn position(&mut self, endpoint: &Arc<Endpoint>) -> usize {
        self.copies.iter().position(|copy| copy.endpoint.id == endpoint.id).unwrap_or_else(|| {
            self.copies.reserve_exact(1);
            self.copies.push(Copy { endpoint: Arc::clone(endpoint), in_flight: 0, turn: 0, listed: false });
            self.copies.len() - 1
        })
    }

    /// A request would run at once.
    fn has_room(&self) -> bool {
        self.limit.as_ref().is_none_or(|limit| limit.waiting.is_empty() && self.local_in_flight < limit.max)
    }

    /// A request would neither run nor wait.
    fn is_full(&self) -> bool {
        !self.has_room()
            && self.limit.as_ref().is_some_and(|limit| {
                u64::try_from(limit.max_queued).is_ok_and(|most| limit.waiting.len() as u64 >= most)
            })
    }

    /// Changes the limit; those returned must look for another way.
    fn set_limit(&mut self, max: u32, max_queued: i64) -> BTreeMap<u64, oneshot::Sender<()>> {
        let local = self.copies.iter().any(|copy| copy.listed && copy.endpoint.kind == EndpointKind::Runtime);
        if max == 0 {
            return self.limit.take().map(|limit| limit.waiting).unwrap_or_default();
        }
        match &mut self.limit {
            Some(limit) => (limit.max, limit.max_queued) = (max, max_queued),
            None => {
                self.limit = Some(Box::new(Limit { max, max_queued, next_number: 0, waiting: BTreeMap::new() }));
            }
        }
        if local { BTreeMap::new() } else { self.take_waiting() }
    }

    fn take_waiting(&mut self) -> BTreeMap<u64, oneshot::Sender<()>> {
        self.limit.as_mut().map(|limit| std::mem::take(&mut limit.waiting)).unwrap_or_default()
    }

    /// Takes those out of the queue who may run now, first come first served.
    fn grant(&mut self) -> Vec<oneshot::Sender<()>> {
        let mut granted = Vec::new();
        if let Some(limit) = &mut self.limit {
            let running = self.local_in_flight as usize - limit.waiting.len().min(self.local_in_flight as usize);
            for _ in running..limit.max as usize {
                let Some((_, sender)) = limit.waiting.pop_first() else { break };
                granted.push(sender);
            }
        }
        granted
    }
}

fn wake(granted: Vec<oneshot::Sender<()>>) {
    for sender in granted {
        // One who has just given up frees the slot by dropping its lease.
        let _ = sender.send(());
    }
}

/// One request's share of a copy, given back when dropped.
pub struct Lease {
    model: Arc<Model>,
    endpoint: Arc<Endpoint>,
    limited: bool,
    served: Option<Duration>,
}

impl Lease {
    /// The runtime answered, after so long.
    pub fn served(&mut self, time: Duration) {
        self.served = Some(time);
    }

    /// The copy took at most so many requests at once when it was chosen.
    pub fn is_limited(&self) -> bool {
        self.limited
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.model.release(&self.endpoint, self.served);
    }
}

/// A place in the queue for the local copy, given up when dropped.
pub struct Ticket {
    number: u64,
    granted: oneshot::Receiver<()>,
    lease: Option<Lease>,
}

impl Ticket {
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Waits for a slot. None where the copy is gone or no longer limited, so that the choice is to be made anew.
    pub async fn wait(mut self) -> Option<Lease> {
        let granted = (&mut self.granted).await;
        granted.ok().and_then(|()| self.lease.take())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(lease) = &self.lease {
            lease.model.leave_queue(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::endpoint::Manner;
    use crate::settings::Settings;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn endpoint(id: u32, kind: EndpointKind) -> Arc<Endpoint> {
        let settings = Settings {
            shards: 1,
            max_message_bytes: 1,
            max_metadata_bytes: 1,
            max_retained_bytes: 1,
            max_payload_bytes: 0,
            max_hops: 1,
            multi_parallelism: 1,
            connect_timeout: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(1),
            max_connection_age: Duration::ZERO,
            max_connection_age_grace: Duration::ZERO,
            per_model_metrics: false,
            max_model_series: 0,
            model_series_idle: Duration::ZERO,
        };
        Endpoint::new(id, kind, "test", Address::Tcp("localhost:1".to_owned()), Manner::of(kind, &settings))
    }

    const ANY: Wanted<'_> = Wanted { avoid: &[], local_only: false, prefer_local: false };

    fn chosen(model: &Arc<Model>, wanted: Wanted<'_>) -> Option<(u32, Lease)> {
        match model.choose(wanted, 0) {
            Choice::Ready(lease) => Some((lease.endpoint().id, lease)),
            _ => None,
        }
    }

    /// The lease that a ticket has got by now.
    fn granted(ticket: &mut Ticket) -> Option<Lease> {
        let receiver = pin!(&mut ticket.granted);
        match receiver.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => ticket.lease.take(),
            _ => None,
        }
    }

    #[test]
    fn equal_copies_take_turns_and_the_local_one_comes_first() {
        let model = Arc::new(Model::new("m"));
        let kinds = [EndpointKind::Peer, EndpointKind::Runtime, EndpointKind::Peer];
        let endpoints: Vec<_> = (0..).zip(kinds).map(|(id, kind)| endpoint(id, kind)).collect();
        model.set(&endpoints, 0, 0);
        let leases: Vec<_> = (0..6).map(|_| chosen(&model, ANY).unwrap()).collect();
        assert_eq!(leases.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 0, 2, 1, 0, 2]);
        let balanced = Wanted { prefer_local: true, ..ANY };
        assert_eq!(chosen(&model, balanced).unwrap().0, 1);
        let avoiding = Wanted { avoid: &[0, 1], ..ANY };
        assert_eq!(chosen(&model, avoiding).unwrap().0, 2);
        drop(leases);
        // Nothing is in flight: the local one again, and then the others by turns.
        let one_by_one: Vec<_> = (0..3).map(|_| chosen(&model, ANY).unwrap().0).collect();
        assert_eq!(one_by_one, [1, 1, 1]);
        let peers = Wanted { avoid: &[1], ..ANY };
        let by_turns: Vec<_> = (0..4).map(|_| chosen(&model, peers).unwrap().0).collect();
        assert!(by_turns == [0, 2, 0, 2] || by_turns == [2, 0, 2, 0], "{by_turns:?}");
    }

    #[test]
    fn a_removed_endpoint_is_in_no_route() {
        let model = Arc::new(Model::new("m"));
        let peer = endpoint(0, EndpointKind::Peer);
        model.set(&[Arc::clone(&peer)], 0, 0);
        peer.remove();
        assert!(chosen(&model, ANY).is_none());
        assert!(model.endpoints().is_empty());
    }

    #[derive(Clone, Debug)]
    enum Event {
        Arrive,
        /// The running or the waiting request of that rank ends.
        Finish(usize),
        GiveUp(usize),
        Limit(u32),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            4 => Just(Event::Arrive),
            2 => (0_usize..8).prop_map(Event::Finish),
            1 => (0_usize..8).prop_map(Event::GiveUp),
            1 => (1_u32..5).prop_map(Event::Limit),
        ];
        prop::collection::vec(event, 0..120)
    }

    proptest! {
        #[test]
        fn the_queue_is_fair_and_bounded(events in events(), max_queued in -1_i64..6) {
            let model = Arc::new(Model::new("m"));
            let runtime = [endpoint(0, EndpointKind::Runtime)];
            let mut max = 2;
            model.set(&runtime, max, max_queued);
            let mut running: Vec<Lease> = Vec::new();
            let mut waiting: VecDeque<Ticket> = VecDeque::new();
            for event in events {
                match event {
                    Event::Arrive => match model.choose(ANY, 0) {
                        Choice::Ready(lease) => {
                            prop_assert!(waiting.is_empty(), "one went past those who wait");
                            running.push(lease);
                        }
                        Choice::Queued(ticket) => waiting.push_back(ticket),
                        Choice::Full => prop_assert_eq!(waiting.len() as i64, max_queued),
                        Choice::None => prop_assert!(false, "there is a copy"),
                    },
                    Event::Finish(rank) if rank < running.len() => drop(running.swap_remove(rank)),
                    Event::GiveUp(rank) if rank < waiting.len() => drop(waiting.remove(rank)),
                    Event::Limit(new) => {
                        max = new;
                        model.set(&runtime, max, max_queued);
                    }
                    _ => {}
                }
                // Whoever was let in stood at the front.
                while let Some(lease) = waiting.front_mut().and_then(granted) {
                    waiting.pop_front();
                    running.push(lease);
                }
                prop_assert!(waiting.iter_mut().all(|ticket| granted(ticket).is_none()), "out of order");
                prop_assert!(waiting.is_empty() || running.len() >= max as usize, "a slot stays empty");
                prop_assert_eq!(model.local_in_flight() as usize, running.len() + waiting.len());
            }
            drop((running, waiting));
            prop_assert_eq!(model.local_in_flight(), 0);
            prop_assert_eq!(model.close_local().0, 0);
            prop_assert!(model.detach_if_idle());
        }
    }
}
