//! The kernel's names: of its reasons to drop packets, and of its functions.

use std::{collections::BTreeMap, fs};

/// Every symbol of the kernel, for root.
const SYMBOLS: &str = "/proc/kallsyms";

/// Names to print.
#[derive(Clone, Debug)]
pub struct Names {
    /// `enum skb_drop_reason` (`include/net/dropreason-core.h`), without the prefix.
    drop_reasons: BTreeMap<u32, String>,
    /// Where functions begin, in order.
    functions: Vec<(u64, String)>,
}

impl Names {
    /// Reads the kernel's symbols. Where they are hidden (`kernel.kptr_restrict`) a function is shown as
    /// an address.
    #[must_use]
    pub fn read(drop_reasons: BTreeMap<u32, String>) -> Self {
        Self::from_parts(drop_reasons, parse(&fs::read_to_string(SYMBOLS).unwrap_or_default()))
    }

    /// Takes the names of drop reasons as type information has them, and functions in order.
    #[must_use]
    pub fn from_parts(drop_reasons: BTreeMap<u32, String>, functions: Vec<(u64, String)>) -> Self {
        Self { drop_reasons, functions }
    }

    /// Returns the name of a reason, or its number.
    #[must_use]
    pub fn drop_reason(&self, number: u32) -> String {
        let name = self.drop_reasons.get(&number).map(String::as_str);
        let short = name.map(|name| name.strip_prefix("SKB_DROP_REASON_").unwrap_or(name));
        short.map_or_else(|| number.to_string(), str::to_owned)
    }

    /// Returns the function that an instruction is part of.
    #[must_use]
    pub fn function(&self, address: u64) -> String {
        let behind = self.functions.partition_point(|(begins, _)| *begins <= address);
        match behind.checked_sub(1).and_then(|index| self.functions.get(index)) {
            Some((begins, name)) => format!("{name}+{:#x}", address - begins),
            None => format!("{address:#x}"),
        }
    }
}

/// Reads functions from the kernel's list: address, type, name, and the module in brackets.
fn parse(symbols: &str) -> Vec<(u64, String)> {
    let function = |line: &str| {
        let mut words = line.split_whitespace();
        let address =
            u64::from_str_radix(words.next()?, 16).ok().filter(|address| *address != 0)?;
        let is_function = matches!(words.next()?, "t" | "T" | "w" | "W");
        is_function.then_some((address, words.next()?.to_owned()))
    };
    let mut functions: Vec<_> = symbols.lines().filter_map(function).collect();
    functions.sort_unstable();
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_part_of_the_function_before_it() {
        let names = Names::from_parts(
            BTreeMap::new(),
            parse("ffff0200 T nf_hook_slow\nffff0100 t ip_rcv\t[ipv4]\nffff0180 d data\n"),
        );
        for (address, function) in [
            (0xffff_0100, "ip_rcv+0x0"),
            (0xffff_01ff, "ip_rcv+0xff"),
            (0xffff_02b3, "nf_hook_slow+0xb3"),
            (0xff, "0xff"),
        ] {
            assert_eq!(names.function(address), function);
        }
    }

    #[test]
    fn hidden_symbols_leave_addresses() {
        let names = Names::from_parts(BTreeMap::new(), parse("0000000000000000 T ip_rcv\n\nx y\n"));
        assert_eq!(names.function(0xffff), "0xffff");
    }
}
