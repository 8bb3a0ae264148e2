//! The end of an output, marked in it.

/// Passes an output through, at once, until a mark comes, and keeps what stands behind that on its line.
///
/// The mark is an SOH character, a name and `=`. What writes it knows the name, and nothing else does.
///
/// ```
/// let mut marker = xen_lab::Marker::new("status");
/// assert_eq!(marker.feed(b"half a l"), b"half a l");
/// assert_eq!(marker.feed(b"ine\n\x01sta"), b"ine\n");
/// assert_eq!(marker.feed(b"tus=3\n"), b"");
/// assert_eq!(marker.value(), Some("3"));
/// ```
pub struct Marker {
    mark: Vec<u8>,
    pending: Vec<u8>,
    /// Where `pending` is what follows the mark.
    found: bool,
    value: Option<String>,
}

impl Marker {
    /// A marker of this name.
    pub fn new(name: &str) -> Marker {
        Marker { mark: format!("\x01{name}=").into_bytes(), pending: Vec::new(), found: false, value: None }
    }

    /// Takes in bytes; returns those that are to be shown.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.pending.extend(bytes);
        let mut shown = Vec::new();
        if !self.found {
            let mark = &self.mark;
            match self.pending.windows(mark.len()).position(|window| window == mark) {
                Some(at) => {
                    shown = self.pending.drain(..at).collect();
                    self.pending.drain(..mark.len());
                    self.found = true;
                }
                None => {
                    let most = mark.len().min(self.pending.len());
                    let kept = (1..=most).rev().find(|len| self.pending.ends_with(&mark[..*len])).unwrap_or(0);
                    shown = self.pending.drain(..self.pending.len() - kept).collect();
                }
            }
        }
        if self.found
            && let Some(end) = self.pending.iter().position(|byte| *byte == b'\n')
        {
            self.value.get_or_insert_with(|| String::from_utf8_lossy(&self.pending[..end]).trim().to_owned());
        }
        shown
    }

    /// What was held back, where the output has ended without a mark.
    pub fn rest(&mut self) -> Vec<u8> {
        if self.found { Vec::new() } else { std::mem::take(&mut self.pending) }
    }

    /// What stands behind the mark, once its line has come.
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_found_however_the_output_is_cut() {
        let output = b"one\n\x01en two\n\x01end=7 \nmore";
        for first in 0..output.len() {
            for second in first..output.len() {
                let mut marker = Marker::new("end");
                let parts = [&output[..first], &output[first..second], &output[second..]];
                let shown: Vec<u8> = parts.into_iter().flat_map(|part| marker.feed(part)).collect();
                assert_eq!(String::from_utf8_lossy(&shown), "one\n\x01en two\n");
                assert_eq!((marker.rest(), marker.value()), (Vec::new(), Some("7")));
            }
        }
    }

    #[test]
    fn an_output_without_a_mark_is_shown_whole() {
        let mut marker = Marker::new("end");
        assert_eq!(marker.feed(b"text\n\x01e"), b"text\n");
        assert_eq!((marker.rest(), marker.value()), (b"\x01e".to_vec(), None));
    }
}
