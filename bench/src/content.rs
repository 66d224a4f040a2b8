//! The commands: each says which one it is, so that an audit can tell from the log alone what stands where.

use synod_frame::Batch;

use crate::options::parse::Size;

/// Bytes of a command that name it: its append call and its place in there.
pub(crate) const STAMP_BYTES: usize = 12;

/// Makes and recognises the commands of one run.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    size: Size,
    seed: u64,
    /// The longest command; shorter ones are its beginning.
    template: Vec<u8>,
}

impl Content {
    pub(crate) fn new(size: Size, seed: u64) -> Content {
        let mut state = seed;
        let template = (0..size.max())
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        Content { size, seed, template }
    }

    /// The commands of append call number `call`.
    pub(crate) fn batch(&self, call: u64, count: u32) -> Batch {
        match self.size {
            Size::Fixed(stride) => {
                let mut bytes = Vec::with_capacity(stride as usize * count as usize);
                for index in 0..count {
                    self.push(&mut bytes, call, index, stride);
                }
                Batch::from_fixed(bytes, stride).expect("the bytes are a multiple of the stride")
            }
            Size::Uniform(..) | Size::Zipf(..) => {
                let mut bytes = Vec::with_capacity(self.size.mean() as usize * count as usize * 5 / 4);
                let mut ends = Vec::with_capacity(count as usize);
                for index in 0..count {
                    self.push(&mut bytes, call, index, self.length(call, index));
                    ends.push(bytes.len() as u32);
                }
                Batch::from_ends(bytes, ends).expect("the ends ascend")
            }
        }
    }

    fn push(&self, bytes: &mut Vec<u8>, call: u64, index: u32, length: u32) {
        let start = bytes.len();
        bytes.extend_from_slice(&self.template[..length as usize]);
        bytes[start..start + 8].copy_from_slice(&call.to_le_bytes());
        bytes[start + 8..start + STAMP_BYTES].copy_from_slice(&index.to_le_bytes());
    }

    /// How long a command is: the same whenever it is asked.
    fn length(&self, call: u64, index: u32) -> u32 {
        if let Size::Fixed(length) = self.size {
            return length;
        }
        let mut mixed = call.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(index).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed = (mixed ^ self.seed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        self.size.at((mixed >> 11) as f64 / (1_u64 << 53) as f64)
    }

    /// Which command of which append call this is; `None` if its bytes aren't exactly those of one.
    pub(crate) fn recognise(&self, command: &[u8]) -> Option<(u64, u32)> {
        let stamp = command.get(..STAMP_BYTES)?;
        let call = u64::from_le_bytes(stamp[..8].try_into().ok()?);
        let index = u32::from_le_bytes(stamp[8..].try_into().ok()?);
        let is_whole = command.len() == self.length(call, index) as usize;
        (is_whole && command[STAMP_BYTES..] == self.template[STAMP_BYTES..command.len()]).then_some((call, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_recognised_and_no_other() {
        for size in [Size::Fixed(20), Size::Uniform(20, 300), Size::Zipf(20, 300)] {
            let content = Content::new(size, 7);
            let batch = content.batch(0x0102_0304_0506, 300);
            let commands: Vec<Vec<u8>> = batch.iter().map(<[u8]>::to_vec).collect();
            for (index, command) in commands.iter().enumerate() {
                assert_eq!(content.recognise(command), Some((0x0102_0304_0506, index as u32)));
            }
            let mut other = commands[0].clone();
            other[15] ^= 1;
            assert_eq!(content.recognise(&other), None);
            assert_eq!(content.recognise(&commands[0][..19]), None);
            assert_eq!(content.recognise(&commands[0][..5]), None);
            let bytes = batch.bytes().len() as f64 / 300.0;
            assert!((bytes - size.mean()).abs() < size.mean() / 4.0, "{size}: {bytes}");
        }
    }
}
