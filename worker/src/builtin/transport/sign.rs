//! Signatures as Standard Webhooks has them: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use roundsman_shared::settings::signing_key;
use sha2::Sha256;

/// Keys of one receiver: more than one while they are being changed.
pub(super) struct Signer(Vec<Hmac<Sha256>>);

impl Signer {
    /// The settings' own check rules out secrets that are none.
    pub(super) fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let keys = secrets.into_iter().filter_map(signing_key);
        Self(keys.filter_map(|key| Hmac::new_from_slice(&key).ok()).collect())
    }

    /// The header `webhook-signature`; `None` without a secret. The timestamp is in seconds.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
        let sign = |key: &Hmac<Sha256>| {
            let mut mac = key.clone();
            mac.update(id.as_bytes());
            mac.update(format!(".{timestamp}.").as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        };
        let signatures: Vec<String> = self.0.iter().map(sign).collect();
        (!signatures.is_empty()).then(|| signatures.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries.
    #[test]
    fn the_published_example() {
        let signer = Signer::new(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]);
        let signature =
            signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    #[test]
    fn each_secret_signs() {
        let both = Signer::new(["whsec_c2VjcmV0", "another"]).sign("a", 1, b"").unwrap();
        let first = Signer::new(["secret"]).sign("a", 1, b"").unwrap();
        let second = Signer::new(["another"]).sign("a", 1, b"").unwrap();
        assert_eq!(both, format!("{first} {second}"));
        assert_eq!(Signer::new([]).sign("a", 1, b""), None);
    }
}
