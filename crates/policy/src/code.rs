//! Coupon codes: 80 random bits a person can read aloud.
//!
//! Crockford's base 32 with its check symbol (<https://www.crockford.com/base32.html>): 16 symbols of 5 bits, then the
//! number modulo 37 as a symbol of its own alphabet, which adds `*~$=U`. 37 is prime and above 32, so every single wrong
//! symbol and every swap of two neighbours is noticed. Written in fours: `XXXX-XXXX-XXXX-XXXX-C`.

/// The longest text that is looked at, in characters: a code with a space around each of its symbols and more.
const LONGEST: usize = 64;

/// The 37 check symbols; the first 32 are the digits.
const SYMBOLS: &[u8; 37] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ*~$=U";

/// How many symbols carry bits.
const DIGITS: usize = 16;

/// The code of 80 bits, which the caller draws from a strong random source.
pub fn encode(bits: [u8; 10]) -> String {
    let number = bits.iter().fold(0u128, |n, &byte| n << 8 | u128::from(byte));
    let digits = std::array::from_fn(|i| (number >> (5 * (DIGITS - 1 - i)) & 31) as u8);
    write(digits, check(digits))
}

/// A code as a person typed it, in the form [`encode`] gives: case, hyphens and spaces do not matter, `O` is read as
/// `0`, `I` and `L` as `1`. None if it has another length, a symbol that codes do not use, or a check symbol that does
/// not fit; None too for a text of more than 64 characters, of which no more is read.
pub fn normalise(code: &str) -> Option<String> {
    if code.chars().nth(LONGEST).is_some() {
        return None;
    }
    let mut symbols = [0u8; DIGITS + 1];
    let mut length = 0;
    for c in code.chars().filter(|c| *c != '-' && !c.is_whitespace()) {
        *symbols.get_mut(length)? = value(c)?;
        length += 1;
    }
    let (digits, check_symbol) = symbols.split_first_chunk::<DIGITS>()?;
    let whole = length == symbols.len() && digits.iter().all(|&d| d < 32) && check(*digits) == check_symbol[0];
    whole.then(|| write(*digits, check_symbol[0]))
}

fn value(c: char) -> Option<u8> {
    let upper = match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    SYMBOLS.iter().position(|&s| char::from(s) == upper).map(|i| i as u8)
}

fn check(digits: [u8; DIGITS]) -> u8 {
    digits.iter().fold(0, |r, &d| (r * 32 + u32::from(d)) % 37) as u8
}

fn write(digits: [u8; DIGITS], check: u8) -> String {
    let mut code = String::with_capacity(DIGITS + 5);
    for group in digits.chunks(4) {
        code.extend(group.iter().map(|&d| char::from(SYMBOLS[usize::from(d)])));
        code.push('-');
    }
    code.push(char::from(SYMBOLS[usize::from(check)]));
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Expected values from Python, by the definition:
    /// `n = int.from_bytes(bits); "".join(S[n >> (75 - 5 * i) & 31] for i in range(16)) + S[n % 37]`.
    #[test]
    fn known_codes() {
        let code = |hex: u128| encode(hex.to_be_bytes()[6..].try_into().unwrap());
        assert_eq!(code(0), "0000-0000-0000-0000-0");
        assert_eq!(code(36), "0000-0000-0000-0014-U");
        assert_eq!(code(0x0102_0304_0506_0708_090a), "0410-6105-0R3G-G28A-Z");
        assert_eq!(code(0xdead_beef_0011_2233_cafe), "VTPV-XVR0-24H3-7JQY-Y");
        assert_eq!(code(0xffff_ffff_ffff_ffff_ffff), "ZZZZ-ZZZZ-ZZZZ-ZZZZ-~");
    }

    #[test]
    fn what_is_no_code() {
        let code = "0410-6105-0R3G-G28A-Z";
        assert_eq!(normalise("o4l0 6i05 0r3g g28a z").as_deref(), Some(code));
        assert_eq!(normalise(&format!("  {code}\n")).as_deref(), Some(code));
        for wrong in
            ["", "0", "0410-6105-0R3G-G28A", "0410-6105-0R3G-G28A-ZZ", "0410-6105-0R3G-G28U-Z", "0410-6105-0R3G-G28é-Z"]
        {
            assert_eq!(normalise(wrong), None, "{wrong}");
        }
        // U is a check symbol only.
        assert!(normalise("0000-0000-0000-0014-u").is_some());
        assert_eq!(normalise("U000-0000-0000-0014-0"), None);
        assert_eq!(normalise(&"0".repeat(1_000_000)), None);
        // Spaces are forgiven, a megabyte of them is not.
        assert_eq!(normalise(&format!("{code}{}", " ".repeat(64 - code.len()))).as_deref(), Some(code));
        assert_eq!(normalise(&format!("{code}{}", " ".repeat(65 - code.len()))), None);
        assert_eq!(normalise(&format!("{}{code}", " ".repeat(1_000_000))), None);
    }

    proptest! {
        #[test]
        fn round_trip(bits: [u8; 10]) {
            let code = encode(bits);
            prop_assert_eq!(normalise(&code), Some(code.clone()));
            let typed = code.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "l");
            prop_assert_eq!(normalise(&typed), Some(code));
        }

        /// All single substitutions by all symbols, and all swaps of neighbours, the check symbol included.
        #[test]
        fn one_slip_is_noticed(bits: [u8; 10]) {
            let code: Vec<char> = encode(bits).replace('-', "").chars().collect();
            for at in 0..code.len() {
                for symbol in SYMBOLS.iter().map(|&s| char::from(s)).filter(|s| *s != code[at]) {
                    let mut slip = code.clone();
                    slip[at] = symbol;
                    prop_assert_eq!(normalise(&slip.iter().collect::<String>()), None);
                }
                if at > 0 && code[at] != code[at - 1] {
                    let mut slip = code.clone();
                    slip.swap(at, at - 1);
                    prop_assert_eq!(normalise(&slip.iter().collect::<String>()), None);
                }
            }
        }

        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,40}") {
            if let Some(code) = normalise(&text) {
                prop_assert_eq!(code.len(), 21);
            }
        }
    }
}
