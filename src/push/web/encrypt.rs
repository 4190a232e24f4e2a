//! Encrypts content that only the browser can read (RFC 8291): one record of `aes128gcm` (RFC
//! 8188).
//!
//! Key agreement uses `p256`, which accepts given keys, so that the RFC's own example can be a
//! test; `ring` encrypts.

use hkdf::Hkdf;
use p256::ecdh::diffie_hellman;
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use p256::{PublicKey, SecretKey};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha2::Sha256;

use super::Subscription;
use super::vapid::random_key;

/// The largest record that services accept.
const RECORD: u32 = 4096;
/// The salt, the record size, the length of the key, and the key.
const HEADER: usize = 16 + 4 + 1 + 65;
/// The end of the content, and the tag.
const TRAILER: usize = 1 + 16;
/// The largest content that fits.
pub(super) const MAX_CONTENT: usize = RECORD as usize - HEADER - TRAILER;
/// Marks the end of the content in the last record.
const LAST: u8 = 2;

/// Encrypts content for a browser, with a key and a salt that are used once.
pub(super) fn encrypt(content: &[u8], to: &Subscription) -> Result<Vec<u8>, String> {
    encrypt_with(content, to, &random_key(), rand::random())
}

fn encrypt_with(
    content: &[u8],
    to: &Subscription,
    key: &SecretKey,
    salt: [u8; 16],
) -> Result<Vec<u8>, String> {
    let failed = || "it cannot be encrypted".to_owned();
    let point = |key: &PublicKey| key.to_encoded_point(false);
    let (sender, receiver) = (point(&key.public_key()), point(&to.key));
    let shared = diffie_hellman(key.to_nonzero_scalar(), to.key.as_affine());
    let context = [b"WebPush: info\0", receiver.as_bytes(), sender.as_bytes()].concat();
    let input: [u8; 32] = derive(&to.auth, shared.raw_secret_bytes(), &context)?;
    let cipher_key: [u8; 16] = derive(&salt, &input, b"Content-Encoding: aes128gcm\0")?;
    let nonce: [u8; 12] = derive(&salt, &input, b"Content-Encoding: nonce\0")?;
    let mut record = [content, &[LAST]].concat();
    let cipher = UnboundKey::new(&AES_128_GCM, &cipher_key).map_err(|_| failed())?;
    let nonce = Nonce::assume_unique_for_key(nonce);
    LessSafeKey::new(cipher)
        .seal_in_place_append_tag(nonce, Aad::empty(), &mut record)
        .map_err(|_| failed())?;
    let mut body = Vec::with_capacity(HEADER + record.len());
    body.extend_from_slice(&salt);
    body.extend_from_slice(&RECORD.to_be_bytes());
    body.push(u8::try_from(sender.len()).map_err(|_| failed())?);
    body.extend_from_slice(sender.as_bytes());
    body.extend_from_slice(&record);
    Ok(body)
}

fn derive<const N: usize>(salt: &[u8], input: &[u8], info: &[u8]) -> Result<[u8; N], String> {
    let mut derived = [0; N];
    let hkdf = Hkdf::<Sha256>::new(Some(salt), input);
    hkdf.expand(info, &mut derived)
        .map_err(|error| error.to_string())?;
    Ok(derived)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    /// Section 5 of the RFC.
    #[test]
    fn the_example_of_the_rfc_comes_out() {
        let subscription = Subscription::parse(
            r#"{"endpoint": "https://push.example.net/push/JzLQ3raZJfFBR0aqvOMsLrt54w4rJUsV",
                "keys": {"auth": "BTBZMqHH6r4Tts7J_aSIgg",
                "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"}}"#,
        )
        .unwrap();
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let key = SecretKey::from_slice(&bytes("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"));
        let salt = bytes("DGv6ra1nlYgDCS1FRnbzlw").try_into().unwrap();
        let content = b"When I grow up, I want to be a watermelon";
        let body = encrypt_with(content, &subscription, &key.unwrap(), salt).unwrap();
        let expected = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27ml\
                      mlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPT\
                      pK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN";
        assert_eq!(URL_SAFE_NO_PAD.encode(body), expected);
    }
}
