//! What the machine offers: node, file watches, ports, folders, sockets.

use std::net::{TcpListener, ToSocketAddrs as _};
use std::path::Path;

use manifest_inspector::UnfitNode;
use nix::unistd::{AccessFlags, access};

use super::Check;
use crate::state::ServerFile;

/// Where the system says how much may be watched.
pub(super) const INOTIFY: &str = "/proc/sys/fs/inotify";
const ENOUGH_WATCHES: u64 = 8_192;
const ENOUGH_INSTANCES: u64 = 64;
/// The longest path of a Unix socket, bytes: the system's 108 with the closing NUL.
const LONGEST_SOCKET_PATH: usize = 107;

/// Whether `program`, started in `folder`, is a node that is new enough.
pub(super) async fn node(program: &Path, folder: &Path) -> Check {
    match manifest_inspector::check_node(program, folder).await {
        Ok(version) => Check::ok("node", version),
        Err(unfit) => Check::fail("node", unfit.what, UnfitNode::ADVICE),
    }
}

/// Whether the system, whose limits stand in `folder`, lets files be watched.
pub(super) fn watches(folder: &Path) -> Check {
    let limit =
        |name: &str| -> Option<u64> { std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok() };
    let (Some(watches), Some(instances)) = (limit("max_user_watches"), limit("max_user_instances")) else {
        return Check::fail(
            "file watches",
            format!("{} cannot be read: this system has no inotify", folder.display()),
            "midrun needs Linux with /proc mounted",
        );
    };
    let what = format!("{watches} watches, {instances} instances");
    if watches < ENOUGH_WATCHES || instances < ENOUGH_INSTANCES {
        let advice = format!(
            "raise them: sudo sysctl fs.inotify.max_user_watches={} fs.inotify.max_user_instances={}",
            watches.max(524_288),
            instances.max(512),
        );
        return Check::warn("file watches", what, advice);
    }
    Check::ok("file watches", what)
}

/// Whether the port that `midrun dev` would take is free, or is `server`'s.
pub(super) fn port(gateway: &settings::Gateway, server: Option<&ServerFile>) -> Check {
    let (host, port) = (gateway.host.as_str(), gateway.port);
    if port == 0 {
        return Check::ok("port", "whichever is free");
    }
    let bound = (host, port)
        .to_socket_addrs()
        .and_then(|addresses| TcpListener::bind(&addresses.collect::<Vec<_>>()[..]));
    let ours = |server: &&ServerFile| server.url.ends_with(&format!(":{port}"));
    match bound {
        Ok(_) => Check::ok("port", format!("{host}:{port} is free")),
        Err(_) if server.filter(ours).is_some() => {
            Check::ok("port", format!("{host}:{port} is taken by this project's server"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Check::warn(
            "port",
            format!("{host}:{port} is taken"),
            "`midrun dev` takes the next free one; `midrun dev --port N` names another",
        ),
        Err(error) => Check::fail(
            "port",
            format!("{host}:{port} cannot be listened on: {error}"),
            "choose another: `midrun dev --host 127.0.0.1 --port 0`, or gateway.host and gateway.port in midrun.toml",
        ),
    }
}

/// Whether `path` can be written, or made where it is missing.
pub(super) fn folder(name: &'static str, path: &Path, advice: &str) -> Check {
    // What is missing is made in the nearest folder that is there. A link to nothing is in the way of one.
    let is_there = |folder: &&Path| folder.symlink_metadata().is_ok();
    let nearest = path.ancestors().find(is_there).unwrap_or(Path::new("/"));
    match access(nearest, AccessFlags::W_OK | AccessFlags::X_OK) {
        _ if !nearest.is_dir() => Check::fail(name, format!("{} is no folder", nearest.display()), advice),
        Ok(()) => Check::ok(name, path.display().to_string()),
        Err(why) => {
            Check::fail(name, format!("{} cannot be written: {}", nearest.display(), why.desc()), advice)
        }
    }
}

/// Whether the path of a run-host's socket in `folder` fits.
pub(super) fn sockets(folder: &Path) -> Check {
    let name = format!("{}.sock", wire::RunId::fresh());
    let length = folder.join(name).as_os_str().len();
    let what = format!("paths of {length} bytes, {LONGEST_SOCKET_PATH} fit");
    if length <= LONGEST_SOCKET_PATH {
        Check::ok("sockets", what)
    } else {
        Check::fail("sockets", what, "set XDG_RUNTIME_DIR to a shorter path")
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use std::path::PathBuf;

    #[tokio::test]
    async fn a_node_that_is_missing_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(node(Path::new("node"), dir.path()).await.state, State::Ok);
        let missing = node(&dir.path().join("none"), dir.path()).await;
        assert_eq!((missing.state, missing.what.contains("was not found")), (State::Fail, true));
        assert!(missing.advice.unwrap().contains("MIDRUN_RUN__NODE"));
    }

    #[test]
    fn small_limits_are_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(watches(dir.path()).state, State::Fail);
        let write = |name: &str, number: &str| std::fs::write(dir.path().join(name), number).unwrap();
        write("max_user_watches", "524288\n");
        write("max_user_instances", "128\n");
        assert_eq!(watches(dir.path()).state, State::Ok);
        write("max_user_watches", "100\n");
        let few = watches(dir.path());
        assert_eq!(few.state, State::Warn);
        assert!(few.advice.unwrap().contains("max_user_watches=524288"));
    }

    #[test]
    fn a_taken_port_is_told_unless_it_is_ours() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port_number = taken.local_addr().unwrap().port();
        let gateway = settings::Gateway { port: port_number, ..settings::Gateway::default() };
        assert_eq!(port(&gateway, None).state, State::Warn);
        let server = ServerFile {
            url: format!("http://127.0.0.1:{port_number}"),
            token: "t".to_owned(),
            process: process::Identity::own().unwrap(),
            started_at: wire::now(),
        };
        assert_eq!(port(&gateway, Some(&server)).state, State::Ok);
        let nowhere = settings::Gateway { host: "192.0.2.1".to_owned(), port: port_number, ..gateway };
        assert_eq!(port(&nowhere, None).state, State::Fail);
    }

    #[test]
    fn folders_need_not_exist_but_must_be_possible() {
        let dir = tempfile::tempdir().unwrap();
        let possible = dir.path().join("a/b/midrun");
        assert_eq!(folder("x", &possible, "mend it").state, State::Ok);
        assert!(!dir.path().join("a").exists());
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
        for odd in ["file", "file/midrun", "link", "link/midrun"] {
            let check = folder("x", &dir.path().join(odd), "mend it");
            assert_eq!((check.state, check.advice.as_deref()), (State::Fail, Some("mend it")), "{odd}");
        }
    }

    #[test]
    fn a_socket_path_has_a_limit() {
        let at = |length: usize| PathBuf::from(format!("/{}", "x".repeat(length - 1)));
        // A slash, an id of 15 characters and ".sock".
        assert_eq!(sockets(&at(LONGEST_SOCKET_PATH - 21)).state, State::Ok);
        assert_eq!(sockets(&at(LONGEST_SOCKET_PATH - 20)).state, State::Fail);
    }
}
