//! A model server that costs almost nothing: the runtime SPI of the mesh, and a fixed answer to everything else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::Parser;
use h2::{RecvStream, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use mesh_bench::net::{CONNECTION_WINDOW, Listener, STREAM_WINDOW, Socket};
use mesh_bench::turns;
use mesh_bench::wire::{Message, first_text, framed};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOT_FOUND: u8 = 5;
const INVALID_ARGUMENT: u8 = 3;
const UNIMPLEMENTED: u8 = 12;
const SPI: &str = "/mmesh.ModelRuntime/";
const READY: u64 = 1;

/// Serves the `mmesh.ModelRuntime` SPI, and answers every other unary method with a fixed or echoed message.
#[derive(Parser)]
struct Settings {
    /// host:port (port 0 picks one) or unix:/path; the bound address is printed on the first line.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// Size of the answer to an inference; the request is echoed where this is not given.
    #[arg(long)]
    reply_bytes: Option<usize>,
    /// Time that an inference takes.
    #[arg(long, default_value_t = 0)]
    delay_us: u64,
    /// Answer NOT_FOUND where the request's mm-model-id is not loaded.
    #[arg(long)]
    strict: bool,
    #[arg(long, default_value_t = 0)]
    load_ms: u64,
    #[arg(long, default_value_t = 64 << 10)]
    model_bytes: u64,
    #[arg(long, default_value_t = 64 << 30)]
    capacity_bytes: u64,
    #[arg(long, default_value_t = 64 << 10)]
    default_model_bytes: u64,
    /// Loads that the mesh may have under way at once.
    #[arg(long, default_value_t = 16)]
    loading_concurrency: u64,
    /// Short turns on a core, soon after waking up, where it is shared with what is measured.
    #[arg(long)]
    short_turns: bool,
}

struct Runtime {
    settings: Settings,
    loaded: Mutex<HashMap<String, u64>>,
    fixed_reply: Option<Bytes>,
}

/// A gRPC status other than OK.
struct Refusal(u8, String);

type Answer = Result<Bytes, Refusal>;

impl Runtime {
    async fn answer(&self, method: &str, headers: &HeaderMap, body: RecvStream) -> Result<Answer, h2::Error> {
        if let Some(method) = method.strip_prefix(SPI) {
            let message = collect(body).await?;
            return Ok(match first_text(&message) {
                Some(model) => self.manage(method, model).await,
                None => Err(Refusal(
                    INVALID_ARGUMENT,
                    "field 1 of the message cannot be read".into(),
                )),
            });
        }
        if self.settings.strict {
            let id = headers
                .get("mm-model-id")
                .and_then(|value| value.to_str().ok())
                .unwrap_or("");
            if !self.loaded.lock().unwrap().contains_key(id) {
                drain(body).await?;
                return Ok(Err(Refusal(NOT_FOUND, format!("model {id} is not loaded"))));
            }
        }
        let reply = match &self.fixed_reply {
            Some(reply) => {
                drain(body).await?;
                reply.clone()
            }
            None => collect(body).await?,
        };
        if self.settings.delay_us > 0 {
            tokio::time::sleep(Duration::from_micros(self.settings.delay_us)).await;
        }
        Ok(Ok(reply))
    }

    async fn manage(&self, method: &str, model: &str) -> Answer {
        let settings = &self.settings;
        let reply = match method {
            "runtimeStatus" => Message::default()
                .number(1, READY)
                .number(2, settings.capacity_bytes)
                .number(3, settings.loading_concurrency)
                .number(4, 90_000)
                .number(5, settings.default_model_bytes)
                .text(6, env!("CARGO_PKG_VERSION")),
            "loadModel" => {
                if settings.load_ms > 0 {
                    tokio::time::sleep(Duration::from_millis(settings.load_ms)).await;
                }
                self.loaded
                    .lock()
                    .unwrap()
                    .insert(model.to_owned(), settings.model_bytes);
                Message::default().number(1, settings.model_bytes)
            }
            "unloadModel" => match self.loaded.lock().unwrap().remove(model) {
                Some(_) => Message::default(),
                None => return Err(Refusal(NOT_FOUND, format!("model {model} is not loaded"))),
            },
            "modelSize" => match self.loaded.lock().unwrap().get(model) {
                Some(&bytes) => Message::default().number(1, bytes),
                None => return Err(Refusal(NOT_FOUND, format!("model {model} is not loaded"))),
            },
            "predictModelSize" => Message::default().number(1, settings.model_bytes),
            other => return Err(Refusal(UNIMPLEMENTED, format!("no method {other} in the SPI"))),
        };
        Ok(reply.framed())
    }
}

async fn drain(mut body: RecvStream) -> Result<(), h2::Error> {
    while let Some(chunk) = body.data().await {
        let length = chunk?.len();
        body.flow_control().release_capacity(length)?;
    }
    Ok(())
}

async fn collect(mut body: RecvStream) -> Result<Bytes, h2::Error> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

async fn serve_call(
    runtime: Arc<Runtime>,
    request: Request<RecvStream>,
    mut respond: server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (head, body) = request.into_parts();
    let answer = runtime.answer(head.uri.path(), &head.headers, body).await?;
    let mut response = Response::new(());
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    match answer {
        Ok(message) => {
            let mut stream = respond.send_response(response, false)?;
            stream.send_data(message, false)?;
            let mut trailers = HeaderMap::with_capacity(1);
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            stream.send_trailers(trailers)
        }
        Err(Refusal(code, message)) => {
            let headers = response.headers_mut();
            headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
            // Ids are visible ASCII here, so the message needs no percent-encoding.
            if let Ok(text) = HeaderValue::from_str(&message) {
                headers.insert("grpc-message", text);
            }
            respond.send_response(response, true).map(drop)
        }
    }
}

async fn serve_connection(runtime: Arc<Runtime>, socket: Box<dyn Socket>) -> Result<(), h2::Error> {
    let mut connection = server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(100_000)
        .handshake::<_, Bytes>(socket)
        .await?;
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        let runtime = runtime.clone();
        tokio::spawn(async move {
            // A call fails alone when its client cancels it or its connection ends.
            let _ = serve_call(runtime, request, respond).await;
        });
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let settings = Settings::parse();
    if settings.short_turns {
        turns::ask_for_short_ones();
    }
    let listener = Listener::bind(&settings.listen).await?;
    println!("{}", listener.address()?);
    let fixed_reply = settings.reply_bytes.map(|length| framed(&vec![b'r'; length]));
    let runtime = Arc::new(Runtime {
        settings,
        loaded: Mutex::default(),
        fixed_reply,
    });
    loop {
        let socket = listener.accept().await?;
        let runtime = runtime.clone();
        tokio::spawn(async move {
            if let Err(error) = serve_connection(runtime, socket).await {
                eprintln!("connection ended: {error}");
            }
        });
    }
}
