//! The network cards that this suite's machine has, for the emulator and for us.

use tunless_lab::{
    addr::{Mac, mac_text},
    nics::wires,
};

/// One card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nic {
    /// The wire it hangs on; two cards share one.
    pub wire: usize,
    /// What it is.
    pub model: Model,
    mac: Mac,
}

/// Kinds of cards, by what their drivers make of XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Native XDP with metadata.
    Virtio,
    /// Native XDP from Linux 6.6 on, without metadata.
    Vmxnet3,
}

impl Nic {
    /// `02:00:ac:10:24:0a`
    #[must_use]
    pub fn mac(&self) -> String {
        mac_text(self.mac)
    }
}

/// All cards: virtio, but for node3's.
pub fn nics() -> impl Iterator<Item = Nic> {
    let models = [Model::Virtio, Model::Virtio, Model::Vmxnet3];
    wires().into_iter().zip(models).enumerate().flat_map(|(wire, (macs, model))| {
        [Nic { wire, model, mac: macs.node }, Nic { wire, model: Model::Virtio, mac: macs.router }]
    })
}
