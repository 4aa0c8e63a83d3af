//! Names for services that were given none, of docker's kind: `eager_hopper`.

use model::State;

const QUALITIES: [&str; 32] = [
    "able", "brave", "bright", "calm", "clever", "cool", "eager", "elegant", "epic", "fervent",
    "focused", "gallant", "gentle", "happy", "hopeful", "jolly", "keen", "kind", "lucid", "merry",
    "modest", "nice", "nimble", "patient", "quick", "quirky", "serene", "sharp", "stoic", "tender",
    "vivid", "zen",
];
const PEOPLE: [&str; 32] = [
    "allen", "babbage", "bell", "boole", "cerf", "clarke", "codd", "curie", "dijkstra", "erdos",
    "euler", "feynman", "gauss", "goldberg", "hamilton", "hopper", "johnson", "kepler", "knuth",
    "lamarr", "lamport", "liskov", "lovelace", "noether", "pascal", "perlman", "ritchie",
    "shannon", "thompson", "turing", "wiles", "wilson",
];

/// A name that no service has, chosen by a random number.
pub(crate) fn name(state: &State, random: u64) -> String {
    let pick = |list: &[&'static str; 32], shift: u32| list[(random >> shift) as usize % 32];
    let name = format!("{}_{}", pick(&QUALITIES, 0), pick(&PEOPLE, 8));
    let taken = |name: &str| {
        let mut services = state.services.values();
        services.any(|service| service.spec.name.folded() == name)
    };
    let numbered = (1u64..).map(|n| format!("{name}{n}"));
    let mut names = std::iter::once(name.clone()).chain(numbered);
    names.find(|name| !taken(name)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_valid() {
        for n in 0..1024u64 {
            let name = name(&State::default(), (n % 32) | ((n / 32) << 8));
            assert!(name.parse::<model::Name>().is_ok(), "{name}");
        }
    }
}
