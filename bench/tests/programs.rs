//! The two programs against each other, as processes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

struct Runtime {
    process: Child,
    address: String,
}

impl Runtime {
    fn start(options: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_null-runtime"))
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the runtime starts");
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut address)
            .unwrap();
        Self {
            process,
            address: address.trim().to_owned(),
        }
    }

    fn load(&self, options: &[&str]) -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_load"))
            .args(["--target", &self.address, "--seconds", "20"])
            .args(options)
            .output()
            .expect("the generator starts");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("a line of JSON")
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn counts_every_request_once_and_measures_the_watched_process() {
    let runtime = Runtime::start(&["--reply-bytes", "64"]);
    let pid = runtime.process.id().to_string();
    let report = runtime.load(&[
        "--count",
        "1000",
        "--concurrency",
        "8",
        "--connections",
        "3",
        "--watch",
        &pid,
    ]);
    assert_eq!(report["ok"], 1000);
    assert_eq!(report["errors"], serde_json::json!({}));
    let latency = &report["latency_us"];
    assert!(latency["p50"].as_f64() <= latency["p999"].as_f64(), "{latency}");
    assert!(report["cost"]["watched"][0]["resident_bytes"].as_u64().unwrap() > 500_000);
}

#[test]
fn large_bodies_are_echoed_over_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("null-runtime-{}.sock", std::process::id()));
    let runtime = Runtime::start(&["--listen", &format!("unix:{}", path.display())]);
    assert_eq!(runtime.load(&["--bytes", "6000000", "--count", "3"])["ok"], 3);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_strict_runtime_serves_loaded_models_only() {
    let runtime = Runtime::start(&["--reply-bytes", "1", "--strict"]);
    let spi = |method: &str| {
        // An ensureLoaded has the id where the SPI has it: in field 1.
        let method = format!("/mmesh.ModelRuntime/{method}");
        runtime.load(&[
            "--kind", "ensure", "--model", "m", "--count", "1", "--method", &method,
        ])
    };
    let infer = || runtime.load(&["--model", "m", "--count", "1"]);
    assert_eq!(infer()["errors"]["grpc-status 5"]["count"], 1);
    assert_eq!(spi("loadModel")["ok"], 1);
    assert_eq!(infer()["ok"], 1);
    assert_eq!(spi("unloadModel")["ok"], 1);
    assert_eq!(infer()["errors"]["grpc-status 5"]["count"], 1);
}

#[test]
fn a_fixed_rate_is_kept_while_answers_are_slow() {
    let runtime = Runtime::start(&["--reply-bytes", "1", "--delay-us", "50000"]);
    let report = runtime.load(&["--rate", "200", "--count", "40"]);
    assert_eq!(report["ok"], 40);
    assert!(report["latency_us"]["p50"].as_f64().unwrap() >= 50_000.0);
}
