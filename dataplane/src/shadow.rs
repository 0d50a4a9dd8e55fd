//! Requests sent a second time, to another model, to see how its answers differ. The client never waits for them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::timeout_at;

use crate::answer::Answer;
use crate::body::{Budget, RequestBody};
use crate::client::Client;
use crate::compare::agree;
use crate::grpc::{Code, message_of};
use crate::journey::{Ending, Journey, Target};
use crate::lock::lock;
use crate::plane::Plane;
use crate::settings::{MAX_SHADOW_BYTES, MAX_SHADOWS, SHADOW_TIMEOUT};
use crate::stream::Call;

/// Differences in one batch that are told one by one, for each vmodel and shadow.
const MAX_DIFFERENCES: usize = 8;

/// A comparison that did not end in agreement.
pub struct Difference {
    pub method: String,
    /// The model that the client's request went to.
    pub model_id: String,
    pub bytes: usize,
    pub time: Duration,
    pub shadow_code: Code,
    pub shadow_status: String,
    pub shadow_bytes: usize,
    pub shadow_time: Duration,
}

/// What became of the requests of one vmodel that were to be mirrored to one model.
#[derive(Default)]
pub struct Tally {
    pub equal: u64,
    pub different: u64,
    pub shadow_failed: u64,
    pub primary_failed: u64,
    pub dropped: u64,
    /// Of all that were compared, as is the next.
    pub time: Duration,
    pub shadow_time: Duration,
    pub differences: Vec<Difference>,
}

/// All tallies since the last time, and the shadows under way.
pub struct Shadows {
    /// Bytes of requests and answers kept for comparing.
    pub budget: Budget,
    running: AtomicUsize,
    tallies: Mutex<HashMap<Pair, Tally>>,
}

impl Shadows {
    pub fn new() -> Shadows {
        let budget = Budget { used: AtomicUsize::new(0), most: MAX_SHADOW_BYTES };
        Shadows { budget, running: AtomicUsize::new(0), tallies: Mutex::default() }
    }

    /// Requests that are with a shadow now.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    pub fn take(&self) -> Vec<(Pair, Tally)> {
        std::mem::take(&mut *lock(&self.tallies)).into_iter().collect()
    }

    fn note(&self, of: &Mirrored, change: impl FnOnce(&mut Tally)) {
        change(lock(&self.tallies).entry(Pair::clone(&of.0)).or_default());
    }
}

/// A vmodel and the model that its requests are mirrored to.
type Pair = (Box<str>, Box<str>);

/// A request that is to be sent a second time once it has been answered. Boxed, since most requests are not.
pub struct Mirrored(Box<Pair>);

/// What the model of the client's choice answered.
struct Primary {
    model_id: String,
    message: Bytes,
    time: Duration,
    /// Counts the message's bytes.
    _answer: Box<Answer>,
}

impl Mirrored {
    pub fn new(vmodel_id: &str, shadow_id: &str) -> Mirrored {
        Mirrored(Box::new((vmodel_id.into(), shadow_id.into())))
    }

    /// Keeps what will be needed.
    pub fn prepare(&self, plane: &Arc<Plane>, body: &mut RequestBody<'_>, client: &mut Client) {
        body.hold();
        client.keep_answer(Answer::to_compare(plane));
    }

    /// Sends the request to the shadow, if it and its answer are all there and there is room.
    pub fn send(self, call: &Call, model_id: &str, ending: &Ending, body: &RequestBody<'_>, client: &mut Client) {
        let time = call.arrived.elapsed();
        let shadows = &call.plane.shadows;
        if ending.code != Code::OK {
            return shadows.note(&self, |tally| tally.primary_failed += 1);
        }
        let mut ready = || {
            let mut answer = client.take_answer()?;
            let message = answer.message(call.plane.settings.max_message_bytes).ok()?;
            let primary = Primary { model_id: model_id.to_owned(), message, time, _answer: answer };
            let request = body.whole_message().filter(|request| shadows.budget.has_room(request.len()))?;
            Some((request, primary, Slot::take(&call.plane)?))
        };
        match ready() {
            Some((request, primary, slot)) => {
                // The client's trace ends with its answer.
                tokio::spawn(self.compare(call.untraced(), request, primary, slot));
            }
            None => shadows.note(&self, |tally| tally.dropped += 1),
        }
    }

    async fn compare(self, call: Call, request: Bytes, primary: Primary, _slot: Slot) {
        let began = Instant::now();
        let (vmodel_id, shadow_id) = &*self.0;
        let shadows = &call.plane.shadows;
        let deadline = (began + SHADOW_TIMEOUT).into();
        let mut client = Client::keeping(Some(deadline), Answer::to_compare(&call.plane));
        let mut body = RequestBody::whole(request, &shadows.budget);
        let target = Target::resolved(shadow_id.clone(), Some(vmodel_id.clone()), false);
        let mut journey = Journey::new(&call, target);
        let ended = timeout_at(deadline, journey.run(&mut body, &mut client)).await;
        let code = ended.map_or(Code::DEADLINE_EXCEEDED, |ending| ending.code);
        let shadow_time = began.elapsed();

        let Some(mut answer) = client.take_answer() else { return };
        let message = match code {
            Code::OK => answer.message(call.plane.settings.max_message_bytes).ok(),
            _ if answer.is_given_up() => None,
            _ => Some(Bytes::new()),
        };
        let Some(message) = message else { return shadows.note(&self, |tally| tally.dropped += 1) };
        let failed = code != Code::OK;
        let agreed = !failed && agree((&primary.message, &primary.model_id), (&message, shadow_id));
        let difference = || Difference {
            method: call.method().to_owned(),
            model_id: primary.model_id.clone(),
            bytes: primary.message.len(),
            time: primary.time,
            shadow_code: code,
            shadow_status: message_of(answer.status()),
            shadow_bytes: message.len(),
            shadow_time,
        };
        shadows.note(&self, |tally| {
            if failed {
                tally.shadow_failed += 1;
            } else {
                *(if agreed { &mut tally.equal } else { &mut tally.different }) += 1;
                tally.time += primary.time;
                tally.shadow_time += shadow_time;
            }
            if !agreed && tally.differences.len() < MAX_DIFFERENCES {
                tally.differences.push(difference());
            }
        });
    }
}

/// A place among the shadows under way.
struct Slot(Arc<Plane>);

impl Slot {
    fn take(plane: &Arc<Plane>) -> Option<Slot> {
        let running = &plane.shadows.running;
        let more = |running| (running < MAX_SHADOWS).then_some(running + 1);
        running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Slot(Arc::clone(plane)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.shadows.running.fetch_sub(1, Ordering::Relaxed);
    }
}
