//! What Python is to log of requests: each that failed, and where that is wanted each that a runtime gets.

use std::sync::Mutex;

use http::{HeaderMap, HeaderName};

use crate::grpc::Code;
use crate::lock::lock;
use crate::metadata;

/// Entries kept between two looks of Python; of more only the number is told.
const MOST: usize = 500;

/// What is wanted of the journal.
#[derive(Clone, Default)]
pub struct Wanted {
    pub each_invocation: bool,
    /// Request headers that go along, and the names by which they do.
    pub headers: Vec<(HeaderName, String)>,
}

/// Values of request headers by the names that the log has for them.
pub type Context = Vec<(String, String)>;

impl Wanted {
    /// The values of a request; binary ones as UTF-8.
    pub fn context(&self, headers: &HeaderMap) -> Context {
        let value = |(header, name): &(HeaderName, String)| {
            metadata::text_of(headers, header).map(|value| (name.clone(), value))
        };
        self.headers.iter().filter_map(value).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Invoked,
    Failed,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Invoked => "invoked",
            Kind::Failed => "failed",
        }
    }
}

pub struct Entry {
    pub kind: Kind,
    pub method: String,
    pub model_id: String,
    pub vmodel_id: String,
    pub code: Code,
    /// Of a failure, where the data plane knows it: that of a server goes to the client unread.
    pub message: String,
    pub milliseconds: f64,
    pub context: Context,
}

#[derive(Default)]
struct Pages {
    entries: Vec<Entry>,
    missed: u64,
}

#[derive(Default)]
pub struct Journal {
    pages: Mutex<Pages>,
}

impl Journal {
    pub fn add(&self, entry: impl FnOnce() -> Entry) {
        let mut pages = lock(&self.pages);
        if pages.entries.len() < MOST {
            pages.entries.push(entry());
        } else {
            pages.missed += 1;
        }
    }

    /// The entries since the last time, and how many more there were.
    pub fn take(&self) -> (Vec<Entry>, u64) {
        let pages = std::mem::take(&mut *lock(&self.pages));
        (pages.entries, pages.missed)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn entry() -> Entry {
        Entry {
            kind: Kind::Failed,
            method: String::new(),
            model_id: String::new(),
            vmodel_id: String::new(),
            code: Code::INTERNAL,
            message: String::new(),
            milliseconds: 0.0,
            context: Vec::new(),
        }
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let journal = Journal::default();
        for _ in 0..MOST + 7 {
            journal.add(entry);
        }
        let (entries, missed) = journal.take();
        assert_eq!((entries.len(), missed), (MOST, 7));
        assert_eq!(journal.take().0.len(), 0);
    }

    #[test]
    fn headers_go_by_the_names_of_the_log() {
        let name = HeaderName::from_static;
        let wanted = Wanted {
            each_invocation: false,
            headers: vec![
                (name("transaction-id"), "txid".into()),
                (name("user-bin"), "user".into()),
                (name("absent"), "absent".into()),
            ],
        };
        let mut headers = HeaderMap::new();
        headers.insert("transaction-id", HeaderValue::from_static("42"));
        headers.insert("user-bin", HeaderValue::from_static("asO8cmdlbg"));
        let expected = vec![("txid".to_owned(), "42".to_owned()), ("user".to_owned(), "j\u{fc}rgen".to_owned())];
        assert_eq!(wanted.context(&headers), expected);
    }
}
