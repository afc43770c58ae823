// Varve from Rust: tonic, with stubs that build.rs generates from proto/.
//
//     cargo run [HOST:PORT]

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

mod pb {
    tonic::include_proto!("varve.v1");
}
use pb::condition::Expected;
use pb::kv_client::KvClient;
use pb::op::Op as Operation;
use pb::watch_client::WatchClient;

fn op(operation: Operation) -> pb::Op {
    pb::Op { op: Some(operation) }
}

fn put(key: &str, value: &str) -> pb::Op {
    op(Operation::Put(pb::PutOp { key: key.into(), value: value.into(), ..Default::default() }))
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

async fn get(kv: &mut KvClient<Channel>, key: &str) -> Result<pb::GetResponse, Status> {
    Ok(kv.get(pb::GetRequest { key: key.into(), ..Default::default() }).await?.into_inner())
}

/// Compare-and-set: writes only if the key still is as it was read. An LSN of 0 means that it is not there.
async fn increment(kv: &mut KvClient<Channel>, key: &str) -> Result<u64, Box<dyn std::error::Error>> {
    loop {
        let was = get(kv, key).await?;
        let value = if was.found { text(&was.value).parse()? } else { 0u64 } + 1;
        let request = pb::WriteRequest {
            ops: vec![put(key, &value.to_string())],
            conditions: vec![pb::Condition { key: key.into(), expected: Some(Expected::LsnEquals(was.lsn)) }],
            ..Default::default()
        };
        if kv.write(request).await?.into_inner().applied {
            return Ok(value);
        }
    }
}

/// Prints the keys of a range, some at a time, all of one state of the database.
async fn print_pages(kv: &mut KvClient<Channel>, prefix: &str, limit: u64) -> Result<(), Status> {
    let mut page_token = Vec::new();
    loop {
        let request = pb::ScanRequest {
            prefix: prefix.into(),
            limit,
            page_token: page_token.clone(),
            keys_only: true,
            ..Default::default()
        };
        let mut stream = kv.scan(request).await?.into_inner();
        let mut keys = Vec::new();
        while let Some(message) = stream.message().await? {
            keys.extend(message.entries.iter().map(|entry| text(&entry.key).into_owned()));
            page_token = message.page_token;
        }
        println!("page: {}", keys.join(" "));
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

/// Waits for a change in a range, from an LSN on. Messages without events are marks of progress. The stream that goes
/// out of scope is cancelled.
async fn first_change(watch: &mut WatchClient<Channel>, prefix: &str, from_lsn: u64) -> Result<pb::Event, Status> {
    let request = pb::WatchRequest { prefix: prefix.into(), from_lsn, ..Default::default() };
    let mut stream = watch.watch(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        if let Some(event) = message.events.into_iter().next() {
            return Ok(event);
        }
    }
    Err(Status::aborted("the watch has ended"))
}

/// The reason behind a gRPC status: the ErrorInfo in its details.
fn error_reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

fn spelt(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "INVALID_ARGUMENT",
        other => other.description(),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7700".into());
    // With TLS and a token: Endpoint::tls_config, and an interceptor that sets `authorization`. The timeout is each
    // call's.
    let channel = Endpoint::new(format!("http://{address}"))?.timeout(Duration::from_secs(30)).connect().await?;
    let (mut kv, mut watch) = (KvClient::new(channel.clone()), WatchClient::new(channel));

    // Acknowledged means: on the disk.
    kv.put(pb::PutRequest { key: "greeting".into(), value: "hello".into(), ..Default::default() }).await?;
    println!("greeting = {}", text(&get(&mut kv, "greeting").await?.value));
    if !get(&mut kv, "nobody").await?.found {
        println!("nobody is not there");
    }

    println!("visits = {}", increment(&mut kv, "visits").await?);
    println!("visits = {}", increment(&mut kv, "visits").await?);
    let late = pb::WriteRequest {
        ops: vec![op(Operation::Delete(pb::DeleteOp { key: "visits".into() }))],
        conditions: vec![pb::Condition { key: "visits".into(), expected: Some(Expected::ValueEquals("1".into())) }],
        ..Default::default()
    };
    if !kv.write(late).await?.into_inner().applied {
        println!("a write on an old state was refused");
    }

    // Several operations as one.
    let names = ["apple", "banana", "cherry", "damson", "elder"];
    let ops = names.iter().map(|name| put(&format!("fruit/{name}"), "ripe")).collect();
    kv.write(pb::WriteRequest { ops, ..Default::default() }).await?;
    print_pages(&mut kv, "fruit/", 2).await?;

    // A watch from an LSN misses nothing, whatever is written before it has begun.
    let request = pb::PutRequest { key: "greeting".into(), value: "good-bye".into(), ..Default::default() };
    let lsn = kv.put(request).await?.into_inner().lsn;
    let event = first_change(&mut watch, "greeting", lsn).await?;
    println!("watched: put {} = {}", text(&event.key), text(&event.value));

    if let Err(status) = get(&mut kv, "").await {
        println!("error: {} {}", spelt(status.code()), error_reason(&status));
    }
    Ok(())
}
