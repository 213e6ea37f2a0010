//! The services that this process does not run, and what is wrong with the way to them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::path::Path;

use peer::{Inbox, Peer, Remote};
use settings::Peers;
use wire::{Secret, Wire};

use crate::cli::Service;
use crate::troubles::Board;

/// The services that those here need, and that are not here.
pub(super) struct Elsewhere {
    pub(super) build_watcher: Option<Remote>,
    pub(super) manifest_inspector: Option<Remote>,
    pub(super) train_registry: Option<Remote>,
    pub(super) cancel_broker: Option<Remote>,
}

/// What each service asks or follows.
const fn needs(service: Service) -> &'static [Service] {
    match service {
        Service::BuildWatcher | Service::CancelBroker | Service::ControlPlane => &[],
        Service::ManifestInspector => &[Service::BuildWatcher],
        Service::TrainRegistry => {
            &[Service::BuildWatcher, Service::ManifestInspector, Service::CancelBroker, Service::ControlPlane]
        }
        Service::SseGateway => &[Service::TrainRegistry, Service::CancelBroker],
    }
}

impl Elsewhere {
    /// Says for every service that is missing how to set it.
    pub(super) fn find(
        here: &BTreeSet<Service>,
        peers: &Peers,
        control_plane: Option<&str>,
        secret: Option<&Secret>,
    ) -> Result<Self, String> {
        let mut wrong = Vec::new();
        let mut find = |service: Service, address: Option<&String>, setting: &str, variable: &str| {
            let asker = here.iter().find(|asker| needs(**asker).contains(&service))?;
            if here.contains(&service) {
                return None;
            }
            let Some(address) = address else {
                wrong.push(format!(
                    "{} needs {}: name it too, to run it in this process, or set {setting} ({variable}) to where it \
                     is, http://HOST:PORT",
                    asker.name(),
                    service.name()
                ));
                return None;
            };
            Remote::new(service.name(), address, secret.cloned())
                .map_err(|error| wrong.push(format!("{setting}: {error}")))
                .ok()
        };
        let found = Self {
            build_watcher: find(
                Service::BuildWatcher,
                peers.build_watcher.as_ref(),
                "peers.buildWatcher",
                "MIDRUN_PEERS__BUILD_WATCHER",
            ),
            manifest_inspector: find(
                Service::ManifestInspector,
                peers.manifest_inspector.as_ref(),
                "peers.manifestInspector",
                "MIDRUN_PEERS__MANIFEST_INSPECTOR",
            ),
            train_registry: find(
                Service::TrainRegistry,
                peers.train_registry.as_ref(),
                "peers.trainRegistry",
                "MIDRUN_PEERS__TRAIN_REGISTRY",
            ),
            cancel_broker: find(
                Service::CancelBroker,
                peers.cancel_broker.as_ref(),
                "peers.cancelBroker",
                "MIDRUN_PEERS__CANCEL_BROKER",
            ),
        };
        if here.contains(&Service::TrainRegistry)
            && !here.contains(&Service::ControlPlane)
            && control_plane.is_none()
        {
            wrong.push(
                "train-registry needs control-plane: name it too, to run it in this process, or set controlPlane.url \
                 (MIDRUN_CONTROL_PLANE_URL) to where it is"
                    .to_owned(),
            );
        }
        if wrong.is_empty() { Ok(found) } else { Err(wrong.join("\n       ")) }
    }

    fn all(&self) -> impl Iterator<Item = &Remote> {
        [&self.build_watcher, &self.manifest_inspector, &self.train_registry, &self.cancel_broker]
            .into_iter()
            .flatten()
    }

    /// What is wrong with each of them, and with the way there, stands on `board`. Known better here are the services
    /// in `here`.
    pub(super) fn tell(&self, board: &Board, here: &BTreeSet<Service>) {
        let known: Vec<&'static str> =
            here.iter().map(|service| service.name()).chain(self.all().map(Remote::name)).collect();
        for remote in self.all() {
            board.follow_remote(remote, known.clone());
        }
    }
}

/// The way to whoever handles `M`: in this process, or elsewhere.
pub(super) fn peer_of<M: Wire>(here: Option<&Inbox<M>>, elsewhere: Option<&Remote>) -> Peer<M> {
    match (here, elsewhere) {
        (Some(inbox), _) => inbox.peer(),
        (None, Some(remote)) => Peer::remote(remote.clone()),
        (None, None) => unreachable!("a service that is needed is here or elsewhere: that was checked first"),
    }
}

/// The secret that the services share, if there is one.
pub(super) fn secret(file: Option<&Path>) -> Result<Option<Secret>, String> {
    let Some(file) = file else { return Ok(None) };
    let text = std::fs::read_to_string(file).map_err(|error| {
        format!(
            "{}: {error}; peers.tokenFile (MIDRUN_PEER_TOKEN_FILE) names the file with the services' secret",
            file.display()
        )
    })?;
    let text = text.trim();
    if text.len() < 16 {
        return Err(format!(
            "{} holds no secret of at least 16 characters; make one with `openssl rand -hex 32 > {0}`",
            file.display()
        ));
    }
    Ok(Some(Secret::new(text)))
}

/// Listens for the other services. Without a secret only where no other machine can come from.
pub(super) fn listen(address: &str, secret: Option<&Secret>) -> Result<TcpListener, String> {
    let bad =
        |error: &dyn std::fmt::Display| format!("peers.listen is {address:?}: {error}; write HOST:PORT");
    let places: Vec<SocketAddr> = address.to_socket_addrs().map_err(|error| bad(&error))?.collect();
    if secret.is_none() && !places.iter().map(SocketAddr::ip).all(|ip: IpAddr| ip.is_loopback()) {
        return Err(format!(
            "peers.listen is {address:?}, where other machines can come from: put a secret into a file, give it to each \
             service and name it in MIDRUN_PEER_TOKEN_FILE"
        ));
    }
    TcpListener::bind(&places[..]).map_err(|error| {
        format!("cannot listen on {address} for the other services: {error}; choose another address with peers.listen (MIDRUN_PEERS__LISTEN)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(here: &[Service], peers: &Peers, control_plane: Option<&str>) -> Result<Elsewhere, String> {
        Elsewhere::find(&here.iter().copied().collect(), peers, control_plane, None)
    }

    #[test]
    fn all_in_one_process_needs_no_address() {
        let all = [
            Service::BuildWatcher,
            Service::ManifestInspector,
            Service::TrainRegistry,
            Service::CancelBroker,
            Service::ControlPlane,
            Service::SseGateway,
        ];
        assert_eq!(find(&all, &Peers::default(), None).unwrap().all().count(), 0);
    }

    #[test]
    fn each_missing_service_is_named_with_its_setting() {
        let error = find(&[Service::TrainRegistry], &Peers::default(), None).err().unwrap();
        for word in [
            "needs build-watcher",
            "MIDRUN_PEERS__BUILD_WATCHER",
            "needs manifest-inspector",
            "peers.manifestInspector",
            "needs cancel-broker",
            "needs control-plane",
            "MIDRUN_CONTROL_PLANE_URL",
        ] {
            assert!(error.contains(word), "{word}: {error}");
        }
        assert!(find(&[Service::BuildWatcher], &Peers::default(), None).is_ok(), "it needs nobody");
    }

    #[test]
    fn an_address_that_is_none_is_said_with_its_setting() {
        for address in ["localhost:4100", "https://host:1", "http://host:1/path", ""] {
            let peers = Peers { build_watcher: Some(address.into()), ..Peers::default() };
            let error = find(&[Service::ManifestInspector], &peers, None).err().unwrap();
            assert!(error.contains("peers.buildWatcher") && error.contains("http://HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn only_loopback_is_listened_on_without_a_secret() {
        let error = listen("0.0.0.0:0", None).unwrap_err();
        assert!(error.contains("MIDRUN_PEER_TOKEN_FILE"), "{error}");
        listen("127.0.0.1:0", None).unwrap();
        listen("0.0.0.0:0", Some(&Secret::new("0123456789abcdef"))).unwrap();
    }
}
