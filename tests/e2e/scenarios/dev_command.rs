//! `midrun dev` where it cannot serve as it was asked to.

use testkit::{LIMIT, Midrun, Stage, Ticker};

#[tokio::test]
async fn a_port_that_is_taken_is_said_and_the_next_free_one_used() {
    let stage = Stage::ticker(&Ticker::default());
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("the system gives a port");
    let port = taken.local_addr().expect("it is bound").port();
    let mut dev = Midrun::new(&stage, ["dev", ".", "--port", &port.to_string()]).start();
    let other =
        |line: &str| line.split("http://127.0.0.1:").nth(1)?.trim().trim_end_matches('/').parse::<u16>().ok();
    let chosen = dev.wait_for_line("address", other).await;
    assert!(chosen != port, "{port} is taken");
    assert!(dev.stdout().contains(&format!("port {port} is taken")), "{}", dev.stdout());
    let client = testkit::Client::new(([127, 0, 0, 1], chosen).into(), "");
    let _ = client.ask("GET", "/healthz").without_token().send().await.expect(200);
    dev.signal(nix::sys::signal::Signal::SIGINT);
    let ended = dev.wait("midrun dev", LIMIT).await.expect(0);
    assert!(!ended.stdout.contains('\u{1b}'), "no colours where the output is no terminal");
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_written_is_said_at_once() {
    use std::os::unix::fs::PermissionsExt as _;
    let stage = Stage::ticker(&Ticker::default());
    let state = stage.project.dir().join(".midrun");
    std::fs::create_dir_all(&state).expect("a folder");
    let set_mode = |mode| {
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    set_mode(0o500);
    let mut dev = Midrun::new(&stage, ["dev", ".", "--port", "0", "--json"]);
    if nix::unistd::geteuid().is_root() {
        // Modes do not bind root unless it gives that right up.
        dev = dev.by(["setpriv", "--bounding-set=-dac_override,-dac_read_search"]);
    }
    let ended = dev.run().await;
    set_mode(0o700);
    let ended = ended.expect(1);
    let named =
        format!("the state folder {} cannot be written", state.canonicalize().expect("it exists").display());
    assert!(ended.stderr.contains(&named), "{}", ended.stderr);
    assert!(ended.stderr.contains("give yourself write permission"), "{}", ended.stderr);
}
