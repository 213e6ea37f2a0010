//! `midrun dev` where it cannot serve as it was asked to, and what it does where nobody asked for anything.

use serde_json::json;
use testkit::{Dev, LIMIT, Layout, Midrun, SdkTrainer, Stage, Ticker, eventually};

use crate::both::faults::control_plane;
use crate::both::frames::status;

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

#[tokio::test]
async fn an_arkor_project_trains_where_its_owner_s_account_is() {
    let (lending, lender, proxy) = control_plane().await;
    let file = lending.project.dir().join(".midrun/control-plane/credentials.json");
    let known = || serde_json::from_slice::<serde_json::Value>(&std::fs::read(&file).ok()?).ok();
    let known = eventually("account of the lender", LIMIT, known).await;
    let stage = Stage::bare(Layout::Arkor);
    let trainer = SdkTrainer::default().with("maxSteps", 20).with("saveSteps", 0);
    stage.project.write("index.ts", &trainer.entry());
    stage.project.write("callbacks.ts", &SdkTrainer::callbacks("v1"));
    let folder = stage.home.dir().join(".arkor");
    std::fs::create_dir(&folder).expect("the home can be written");
    let account = json!({
        "token": known["token"], "orgSlug": known["orgSlug"], "arkorCloudApiUrl": proxy.url(), "mode": "anon",
    });
    std::fs::write(folder.join("credentials.json"), account.to_string()).expect("the home can be written");

    let dev = Dev::start(&stage).await;
    let mut events = dev.events().await;
    events.next_named("ready").await;
    let run = dev.running(&mut events).await;
    let exited = status(&mut events, &run, "exited").await;
    assert_eq!(exited.data["exitCode"], 0, "{exited}");
    assert!(proxy.count("POST /v1/jobs?") >= 1, "the job is there");
    assert_eq!(proxy.count("POST /v1/auth"), 0, "nobody made another account");
    let kept = std::fs::read_to_string(folder.join("credentials.json")).expect("it is there");
    assert_eq!(kept, account.to_string(), "its owner's file stays as it was");
    assert!(!stage.project.dir().join(".midrun/control-plane").exists(), "there is no other control plane");
    dev.finish().await;
    lender.finish().await;
}

#[tokio::test]
async fn start_beside_a_server_trains_where_that_does_and_as_the_same() {
    let (_lending, lender, proxy) = control_plane().await;
    let stage = Stage::sdk(&SdkTrainer::default().with("maxSteps", 20).with("saveSteps", 0));
    let state = stage.project.dir().join(".midrun");
    let own = state.join("control-plane/credentials.json");
    let dev = Dev::start(&stage).await;
    let kept = eventually("account of its own", LIMIT, || std::fs::read_to_string(&own).ok()).await;
    dev.finish().await;

    let dev = Dev::options(&stage, &["--control-plane", &proxy.url()]).start().await;
    eventually("sign-in", LIMIT, || (proxy.count("POST /v1/projects") > 0).then_some(())).await;
    let mut events = dev.events().await;
    events.next_named("ready").await;
    let _ = Midrun::new(&stage, ["start"]).run().await.expect(0);
    assert!(proxy.count("POST /v1/jobs?") >= 1, "the job is there");
    assert_eq!(proxy.count("POST /v1/auth"), 1, "the server's account is that of start too");
    assert_eq!(
        std::fs::read_to_string(&own).expect("it is there"),
        kept,
        "nobody else saw it or took its place"
    );
    let names = std::fs::read_dir(&state).expect("it is there").flatten().map(|entry| entry.file_name());
    let lent: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with("start-")).collect();
    assert!(lent.is_empty(), "what the runner was lent is left: {lent:?}");
    dev.finish().await;
    lender.finish().await;
}
