//! Chain ids: the names of layers with everything below them (OCI image-spec, config.md).

use capstan_schema::{Algorithm, Digest};
use sha2::{Digest as _, Sha256};

/// The chain id of each layer, base first.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => {
                let hash = Sha256::digest(format!("{below} {diff_id}"));
                Digest::from_hash(Algorithm::Sha256, &hash)
            }
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let digest = |hex: &str| Digest::parse(&format!("sha256:{hex}")).unwrap();
        let one = digest(&"0".repeat(64));
        let two = digest(&"1".repeat(64));
        let chain = chain_ids(&[one.clone(), two.clone()]);
        let want = Sha256::digest(format!("{one} {two}"));
        assert_eq!(chain, [one, Digest::from_hash(Algorithm::Sha256, &want)]);
        assert!(chain_ids(&[]).is_empty());
    }
}
