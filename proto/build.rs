//! Generates the message types and clients. protox parses the texts, so that no protoc need be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The runtime is only called; the control API is called and served by the same program.
    generate("cri.proto", false)?;
    // Served only by the tests of the prober.
    generate("health.proto", true)?;
    generate("keelson.proto", true)
}

fn generate(file: &str, server: bool) -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/{file}");
    let descriptors = protox::compile([file], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(server)
        .build_transport(true)
        .compile_fds(descriptors)?;
    Ok(())
}
