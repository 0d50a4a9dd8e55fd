//! One request for several models: the same bytes to each, and their answers joined in the order of the ids.
//!
//! Serialized protobuf messages one after the other are their merge, so that the joined answer is one message.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use crate::answer::Answer;
use crate::body::{BodyError, Budget, RequestBody};
use crate::client::{Client, Ended};
use crate::compression::too_large;
use crate::frames::framed;
use crate::grpc::{Code, Status, message_of};
use crate::journey::{Ending, Journey, Target};
use crate::stream::Call;

/// What a request for several models is for.
pub struct Several {
    /// In the order of the ids, of which there may be the same one more than once.
    pub targets: Vec<Target>,
    /// A model that is not there fails the request; else it is left out.
    pub all_required: bool,
}

impl Several {
    /// Those of models and those of vmodels, one of them empty, for the log.
    pub fn ids(&self) -> (String, String) {
        let joined = |are_vmodels| {
            let ids = self.targets.iter().map(Target::subject).filter(|subject| subject.is_vmodel == are_vmodels);
            ids.map(|subject| &*subject.id).collect::<Vec<_>>().join(",")
        };
        (joined(false), joined(true))
    }
}

/// Why there is no joined answer.
enum Failure {
    /// As that model answered.
    Given(String, Box<Answer>),
    Refused(Status),
}

/// Sends the request to each model, and the client their joined answers or the first failure.
///
/// Returns: how it ended, and of a failure what is to be logged of it.
pub async fn fan_out(
    call: &Call,
    several: Several,
    body: &mut RequestBody<'_>,
    client: &mut Client,
) -> (Ending, String) {
    let request = match client.unless_ended(poll_fn(|cx| body.poll_whole(cx))).await {
        Ok(Ok(request)) => request,
        Ok(Err(BodyError::Refused(status))) => return refuse(&status, client),
        Ok(Err(BodyError::Gone)) => return ended(Ended::Gone, client),
        Err(end) => return ended(end, client),
    };
    let mut branches = Branches::new(call, several, request, client);
    let finished = client.unless_ended(poll_fn(|cx| branches.poll(cx))).await;
    let message = match finished {
        Ok(Ok(())) => branches.joined(call.plane.settings.max_message_bytes),
        Ok(Err(failure)) => Err(failure),
        Err(end) => return ended(end, client),
    };
    match message {
        Ok(message) => {
            client.head(Status::head(), false);
            // HTTP/2 keeps what the client does not take at once.
            client.data(framed(&message));
            client.trailers(Status::new(Code::OK, "").trailers());
            (Ending::new(Code::OK, Some(message.len() as u64)), String::new())
        }
        Err(Failure::Refused(status)) => refuse(&status, client),
        Err(Failure::Given(model_id, mut answer)) => {
            let code = Code::of(answer.status());
            let why = format!("model {model_id}: {}", message_of(answer.status()));
            answer.give_status(client);
            (Ending::new(code, None), why)
        }
    }
}

fn ended(ended: Ended, client: &mut Client) -> (Ending, String) {
    (Ending::new(client.end(ended), None), String::new())
}

fn refuse(status: &Status, client: &mut Client) -> (Ending, String) {
    client.status(status);
    (Ending::new(status.code, None), status.message.clone())
}

/// A model's message; None where it is not there and need not be.
type Answered = Result<Option<Bytes>, Failure>;

/// The request on its way to one model.
type Branch<'a> = Pin<Box<dyn Future<Output = Answered> + Send + 'a>>;

/// The request on its way to all models. Dropping it withdraws it from those that have not answered.
struct Branches<'a> {
    begin: Box<dyn FnMut(Target) -> Branch<'a> + Send + 'a>,
    waiting: std::iter::Enumerate<std::vec::IntoIter<Target>>,
    running: Vec<(usize, Branch<'a>)>,
    most: usize,
    answers: Vec<Option<Bytes>>,
}

impl<'a> Branches<'a> {
    fn new(call: &'a Call, several: Several, request: Bytes, client: &Client) -> Branches<'a> {
        let (deadline, all_required) = (client.deadline, several.all_required);
        let begin = move |target| -> Branch<'a> {
            // The whole request's body is counted among those kept already.
            let client = Client::keeping(deadline, Answer::new(call.plane.settings.max_message_bytes));
            Box::pin(branch(call, target, request.clone(), client, all_required))
        };
        let most = call.plane.settings.multi_parallelism.min(several.targets.len());
        Branches {
            begin: Box::new(begin),
            answers: vec![None; several.targets.len()],
            running: Vec::with_capacity(most),
            waiting: several.targets.into_iter().enumerate(),
            most,
        }
    }

    /// Ready once all have answered, or one of them with a failure.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            while self.running.len() < self.most {
                let Some((rank, target)) = self.waiting.next() else { break };
                self.running.push((rank, (self.begin)(target)));
            }
            if self.running.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let before = self.running.len();
            let mut at = 0;
            while at < self.running.len() {
                match self.running[at].1.as_mut().poll(cx) {
                    Poll::Pending => at += 1,
                    Poll::Ready(answered) => {
                        let (rank, _) = self.running.swap_remove(at);
                        self.answers[rank] = answered?;
                    }
                }
            }
            if self.running.len() == before {
                return Poll::Pending;
            }
        }
    }

    fn joined(self, limit: usize) -> Result<Bytes, Failure> {
        let answers: Vec<Bytes> = self.answers.into_iter().flatten().collect();
        let size = answers.iter().map(Bytes::len).sum();
        if answers.is_empty() {
            return Err(Failure::Refused(Status::new(Code::NOT_FOUND, "none of the requested models were found")));
        }
        if size > limit {
            return Err(Failure::Refused(too_large(size, limit, "the models' answers make a ")));
        }
        let mut message = BytesMut::with_capacity(size);
        answers.iter().for_each(|answer| message.extend_from_slice(answer));
        Ok(message.freeze())
    }
}

async fn branch(call: &Call, target: Target, request: Bytes, mut client: Client, required: bool) -> Answered {
    let budget = Budget::unlimited();
    let mut body = RequestBody::whole(request, &budget);
    let mut journey = Journey::new(call, target);
    let ending = journey.run(&mut body, &mut client).await;
    let Some(mut answer) = client.take_answer() else {
        return Err(Failure::Refused(Status::new(Code::INTERNAL, "an answer was lost inside the mesh")));
    };
    let is_missing = journey.is_missing();
    if is_missing && !required {
        Ok(None)
    } else if ending.code == Code::OK || answer.is_given_up() {
        answer.message(call.plane.settings.max_message_bytes).map(Some).map_err(Failure::Refused)
    } else {
        Err(Failure::Given(journey.model_id().to_owned(), answer))
    }
}
