//! A gRPC load generator: closed loop, or at a fixed rate without coordinated omission. Prints one line of JSON.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use h2::client::{self, SendRequest};
use http::HeaderMap;
use mesh_bench::net::{self, CONNECTION_WINDOW, STREAM_WINDOW};
use mesh_bench::plan::{Plan, PlanSettings};
use mesh_bench::tally::{Meter, Tally};
use mesh_bench::turns;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the requests under way at the end may take before they are given up.
const LAST_REQUESTS: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Settings {
    /// host:port or unix:/path; may be repeated, connections are spread over them.
    #[arg(long, required = true)]
    target: Vec<String>,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Requests in flight of the closed loop.
    #[arg(long, default_value_t = 1)]
    concurrency: usize,
    /// Requests per second; makes the loop open: latency counts from the moment a request was due.
    #[arg(long)]
    rate: Option<f64>,
    /// Length of the measured window.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Ends the run after so many requests, if that is sooner than --seconds.
    #[arg(long)]
    count: Option<usize>,
    /// Load before the measured window.
    #[arg(long, default_value_t = 0.0)]
    warm_up: f64,
    /// Process whose CPU and memory are reported; may be repeated.
    #[arg(long)]
    watch: Vec<u32>,
    /// Short turns on a core, soon after waking up, where it is shared with what is measured.
    #[arg(long)]
    short_turns: bool,
    #[command(flatten)]
    plan: PlanSettings,
}

/// One phase of a run: warm-up, or the measured window.
struct Phase {
    plan: Arc<Plan>,
    /// Of the next request; goes on from phase to phase, so that none of a list of models is named twice.
    next: Arc<AtomicUsize>,
    /// Requests numbered from here on are not sent.
    end: usize,
    until: Instant,
    tally: Mutex<Tally>,
}

impl Phase {
    fn take(&self) -> Option<usize> {
        if Instant::now() >= self.until {
            return None;
        }
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        (n < self.end).then_some(n)
    }

    async fn call(&self, connection: SendRequest<Bytes>, n: usize, due: Instant) {
        let outcome = exchange(connection, &self.plan, n).await;
        let mut tally = self.tally.lock().unwrap();
        match outcome {
            Ok(None) => tally.ok(due.elapsed()),
            Ok(Some((code, message))) => tally.error(format!("grpc-status {code}"), message),
            Err(error) => tally.error("transport".into(), error.to_string()),
        }
    }
}

/// Sends request `n` and reads its answer; `None` for OK, else status and message.
async fn exchange(
    connection: SendRequest<Bytes>,
    plan: &Plan,
    n: usize,
) -> Result<Option<(String, String)>, h2::Error> {
    let (request, body) = plan.request(n);
    let (response, mut stream) = connection.ready().await?.send_request(request, false)?;
    stream.send_data(body, true)?;
    let (head, mut body) = response.await?.into_parts();
    while let Some(chunk) = body.data().await {
        let length = chunk?.len();
        body.flow_control().release_capacity(length)?;
    }
    let trailers = body.trailers().await?;
    Ok(refusal(trailers.as_ref().unwrap_or(&head.headers)))
}

fn refusal(headers: &HeaderMap) -> Option<(String, String)> {
    let text = |name| {
        headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    match text("grpc-status") {
        Some(code) if code == "0" => None,
        Some(code) => Some((code, text("grpc-message").unwrap_or_default())),
        None => Some(("absent".into(), String::new())),
    }
}

async fn connect(settings: &Settings) -> Result<Vec<SendRequest<Bytes>>, Box<dyn Error>> {
    let mut connections = Vec::new();
    for target in settings
        .target
        .iter()
        .cycle()
        .take(settings.connections.max(settings.target.len()))
    {
        let socket = net::connect(target)
            .await
            .map_err(|error| format!("--target {target}: {error}"))?;
        let (sender, connection) = client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(10_000)
            .handshake(socket)
            .await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("connection ended: {error}");
            }
        });
        connections.push(sender);
    }
    Ok(connections)
}

/// Each of `concurrency` tasks sends its next request when the last one is answered.
async fn closed_loop(phase: Arc<Phase>, connections: &[SendRequest<Bytes>], concurrency: usize) {
    let mut workers = JoinSet::new();
    for connection in connections.iter().cycle().take(concurrency) {
        let phase = phase.clone();
        let connection = connection.clone();
        workers.spawn(async move {
            while let Some(n) = phase.take() {
                phase.call(connection.clone(), n, Instant::now()).await;
            }
        });
    }
    finish(&phase, workers).await;
}

/// Sends at the given rate whether or not answers come.
async fn open_loop(phase: Arc<Phase>, connections: &[SendRequest<Bytes>], rate: f64) {
    let mut calls = JoinSet::new();
    let mut ticks = metronome(rate, phase.until);
    while let Some(due) = ticks.recv().await {
        let Some(n) = phase.take() else { break };
        let connection = connections[n % connections.len()].clone();
        let phase = phase.clone();
        calls.spawn(async move { phase.call(connection, n, due).await });
        while calls.try_join_next().is_some() {}
    }
    finish(&phase, calls).await;
}

/// Moments at an even distance. A thread of its own, because the timers of tokio are a millisecond coarse.
fn metronome(rate: f64, until: Instant) -> mpsc::UnboundedReceiver<Instant> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let start = Instant::now();
    std::thread::spawn(move || {
        for tick in 0.. {
            let due = start + Duration::from_secs_f64(f64::from(tick) / rate);
            if due >= until {
                break;
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.send(due).is_err() {
                break;
            }
        }
    });
    receiver
}

async fn finish(phase: &Phase, mut tasks: JoinSet<()>) {
    let deadline = tokio::time::Instant::from_std(phase.until) + LAST_REQUESTS;
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout_at(deadline, all).await.is_err() {
        let mut tally = phase.tally.lock().unwrap();
        for _ in 0..tasks.len() {
            tally.error(
                "unanswered".into(),
                format!("{} s after the end", LAST_REQUESTS.as_secs()),
            );
        }
    }
}

async fn run(settings: Settings) -> Result<Value, Box<dyn Error>> {
    let connections = connect(&settings).await?;
    let plan = Arc::new(Plan::new(settings.plan)?);
    let next = Arc::new(AtomicUsize::new(0));
    let phase = |seconds: f64, end: usize| {
        Arc::new(Phase {
            plan: plan.clone(),
            next: next.clone(),
            end,
            until: Instant::now() + Duration::from_secs_f64(seconds),
            tally: Mutex::default(),
        })
    };
    let drive = async |phase: Arc<Phase>| match settings.rate {
        Some(rate) => open_loop(phase, &connections, rate).await,
        None => closed_loop(phase, &connections, settings.concurrency).await,
    };
    if settings.warm_up > 0.0 {
        drive(phase(settings.warm_up, usize::MAX)).await;
    }
    let end = settings
        .count
        .map_or(usize::MAX, |count| next.load(Ordering::Relaxed) + count);
    let meter = Meter::start(&settings.watch);
    let measured = phase(settings.seconds, end);
    drive(measured.clone()).await;
    let elapsed = meter.elapsed();
    let mut report = measured.tally.lock().unwrap().report(elapsed);
    report["cost"] = meter.report();
    Ok(report)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let settings = Settings::parse();
    if settings.short_turns {
        turns::ask_for_short_ones();
    }
    println!("{}", run(settings).await?);
    Ok(())
}
