//! Classic BPF for sockets (`linux/bpf_common.h`): which packets one keeps.

use socket2::SockFilter;

/// `BPF_LD|BPF_W|BPF_ABS`.
const LOAD: u16 = 0x20;
/// `BPF_JMP|BPF_JEQ|BPF_K`.
const JUMP_IF_EQUAL: u16 = 0x15;
/// `BPF_RET|BPF_K`.
const RETURN: u16 = 0x06;

/// A filter that keeps nothing.
#[must_use]
pub fn nothing() -> [SockFilter; 1] {
    [SockFilter::new(RETURN, 0, 0, 0)]
}

/// A filter that looks at the word `at` this place, in host byte order: so many bytes are kept of
/// packets in which it is one of `words`, and so many of `others`. Only the first 255 words count.
#[must_use]
pub fn by_word(at: u32, words: &[u32], kept: u32, others: u32) -> Vec<SockFilter> {
    // How far a jump leads has a byte.
    let words = &words[..words.len().min(usize::from(u8::MAX))];
    let mut filter = vec![SockFilter::new(LOAD, 0, 0, at)];
    for (place, word) in words.iter().enumerate() {
        let to_the_end = u8::try_from(words.len() - place).unwrap_or(u8::MAX);
        filter.push(SockFilter::new(JUMP_IF_EQUAL, to_the_end, 0, *word));
    }
    filter.push(SockFilter::new(RETURN, 0, 0, others));
    filter.push(SockFilter::new(RETURN, 0, 0, kept));
    filter
}
