//! The commands: each says which one it is, so that an audit can tell from the log alone what stands where.

use synod_frame::Batch;

/// Bytes of a command that name it: its append call and its place in there.
pub(crate) const STAMP_BYTES: usize = 12;

/// Makes and recognises the commands of one run.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    template: Vec<u8>,
}

impl Content {
    pub(crate) fn new(payload_bytes: usize, seed: u64) -> Content {
        assert!(payload_bytes >= STAMP_BYTES, "a command has room for its stamp");
        let mut state = seed;
        let template = (0..payload_bytes)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        Content { template }
    }

    /// The commands of append call number `call`.
    pub(crate) fn batch(&self, call: u64, count: u32) -> Batch {
        let payload = self.template.len();
        let mut bytes = Vec::with_capacity(payload * count as usize);
        for index in 0..count {
            let start = bytes.len();
            bytes.extend_from_slice(&self.template);
            bytes[start..start + 8].copy_from_slice(&call.to_le_bytes());
            bytes[start + 8..start + STAMP_BYTES].copy_from_slice(&index.to_le_bytes());
        }
        Batch::from_fixed(bytes, payload as u32).expect("the bytes are a multiple of the stride")
    }

    /// Which command of which append call this is; `None` if its bytes aren't exactly those of one.
    pub(crate) fn recognise(&self, command: &[u8]) -> Option<(u64, u32)> {
        if command.len() != self.template.len() || command[STAMP_BYTES..] != self.template[STAMP_BYTES..] {
            return None;
        }
        let call = u64::from_le_bytes(command[..8].try_into().ok()?);
        let index = u32::from_le_bytes(command[8..STAMP_BYTES].try_into().ok()?);
        Some((call, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_recognised_and_no_other() {
        let content = Content::new(20, 7);
        let batch = content.batch(0x0102_0304_0506, 3);
        let commands: Vec<Vec<u8>> = batch.iter().map(<[u8]>::to_vec).collect();
        for (index, command) in commands.iter().enumerate() {
            assert_eq!(content.recognise(command), Some((0x0102_0304_0506, index as u32)));
        }
        let mut other = commands[0].clone();
        other[15] ^= 1;
        assert_eq!(content.recognise(&other), None);
        assert_eq!(content.recognise(&commands[0][..19]), None);
    }
}
