//! The little of future combinators that is needed.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

/// What ended first.
pub enum Either<A, B> {
    Left(A),
    Right(B),
}

/// Runs both until one ends, and drops the other; the left one has the first look.
pub async fn either<A: Future, B: Future>(left: A, right: B) -> Either<A::Output, B::Output> {
    let (mut left, mut right) = (pin!(left), pin!(right));
    poll_fn(|cx| {
        if let Poll::Ready(value) = left.as_mut().poll(cx) {
            return Poll::Ready(Either::Left(value));
        }
        right.as_mut().poll(cx).map(Either::Right)
    })
    .await
}
