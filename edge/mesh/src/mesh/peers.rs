//! All peers of the core, by index and by name.

use std::{
    collections::HashMap,
    ops::{Index, IndexMut, Range},
};

use cframe_pki::identity::Label;

use crate::peer::Peer;

/// An index stays valid for the life of the core: a removed peer stays here, but is no longer a
/// member.
#[derive(Debug, Default)]
pub(super) struct Peers {
    list: Vec<Peer>,
    by_name: HashMap<Label, u32>,
}

impl Peers {
    pub(super) fn find(&self, name: &Label) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(super) fn find_or_add(&mut self, name: &Label) -> u32 {
        if let Some(index) = self.find(name) {
            return index;
        }
        let index = self.indices().end;
        self.list.push(Peer::new(name.clone()));
        self.by_name.insert(name.clone(), index);
        index
    }

    pub(super) fn indices(&self) -> Range<u32> {
        0..u32::try_from(self.list.len()).expect("peers are counted in thousands")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.list.iter()
    }
}

impl Index<u32> for Peers {
    type Output = Peer;

    #[inline]
    fn index(&self, index: u32) -> &Peer {
        &self.list[index as usize]
    }
}

impl IndexMut<u32> for Peers {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut Peer {
        &mut self.list[index as usize]
    }
}
