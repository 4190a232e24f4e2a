//! How hard a password is to guess, from 1 (at once) to 5 (not in a lifetime).

use skytrail_actors::accounts::policy::without_case;
use zxcvbn::zxcvbn;

/// Shorter strings about the user are ignored: they occur by chance.
const MIN_KNOWN_CHARS: usize = 2;
/// The rest is ignored: this many characters are either hard enough to guess, or no number is.
const MAX_CHARS: usize = 100;

/// Estimates a password's strength against an attacker who knows `user_texts`.
///
/// The known strings are used as words to try. The password is also judged by what is left of it
/// without them: a sequence of known words is not hard to guess because it is long.
pub fn level(password: &str, user_texts: &[String]) -> u8 {
    let password: String = password.chars().take(MAX_CHARS).collect();
    let texts: Vec<&str> = user_texts.iter().map(String::as_str).collect();
    let whole = score(&password, &texts);
    let folded = without_case(&password);
    let may_occur = |text: &&String| text.len() <= folded.len();
    let user_texts = user_texts.iter().filter(may_occur);
    let mut user_texts: Vec<String> = user_texts.map(|text| without_case(text)).collect();
    user_texts.retain(|text| text.chars().count() >= MIN_KNOWN_CHARS);
    user_texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
    let mut remainder = folded.clone();
    for text in &user_texts {
        remainder = remainder.replace(text.as_str(), "");
    }
    if remainder == folded {
        return whole + 1;
    }
    whole.min(score(&remainder, &[])) + 1
}

fn score(password: &str, user_texts: &[&str]) -> u8 {
    zxcvbn(password, user_texts).score().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level_of(password: &str, user_texts: &[&str]) -> u8 {
        let user_texts: Vec<String> = user_texts.iter().map(|text| (*text).to_owned()).collect();
        level(password, &user_texts)
    }

    #[test]
    fn what_is_known_of_the_user_makes_it_easy() {
        let long = "nihongo-wo-manabimashou";
        assert_eq!(level_of(long, &[]), 5);
        assert_eq!(level_of(long, &["nihongo", "wo", "manabimashou"]), 1);
        assert_eq!(level_of(long, &["Manabimashou", "NIHONGO", "Wo"]), 1);
        assert!(level_of(long, &["manabimashou", "nihongo"]) <= 2);
        assert_eq!(level_of(long, &["a", "x"]), 5);
        // A sigma at a word's end has another small letter than within a word.
        let greek = "ΚΩΝΣΤΑΝΤΙΝΟΣΚΩΝΣΤΑΝΤΙΝΟΣ";
        assert!(level_of(greek, &[]) > 1);
        assert_eq!(level_of(greek, &["ΚΩΝΣΤΑΝΤΙΝΟΣ"]), 1);
    }

    #[test]
    fn levels_go_from_common_to_long() {
        assert_eq!(level_of("", &[]), 1);
        assert_eq!(level_of("password", &[]), 1);
        assert_eq!(level_of("correct horse battery staple again", &[]), 5);
        let endless = "long ".repeat(1_000_000);
        assert!(level_of(&endless, &vec!["long"; 1000]) <= 5);
    }
}
