// Stubs from proto/, with protoc. google.rpc is in tonic-types.
fn main() -> std::io::Result<()> {
    let proto = std::env::var("VARVE_PROTO").unwrap_or("../../proto".into());
    tonic_build::configure()
        .build_server(false)
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_protos(
            &[format!("{proto}/varve/v1/kv.proto"), format!("{proto}/varve/v1/watch.proto")],
            &[proto],
        )
}
