//! Regret as tables of shaded cells. The number stands in every cell, so nothing hangs on the shade alone.

use super::text::bare;
use super::{LeagueReport, Role, Standing};
use crate::html::{escape, signs};

/// Regret up to which a shade goes, in percent; the last shade has no end.
const STEPS: [f64; 7] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];

/// The shade of a regret as it is shown, in tenths of a percent: 0 to 7.
fn shade(regret: f64) -> usize {
    let shown = (1000.0 * regret).round() / 10.0;
    STEPS.iter().filter(|&&step| shown > step).count()
}

impl LeagueReport {
    /// Policies by regime, by pool and by variant.
    pub(super) fn heat(&self, standings: &[Standing]) -> String {
        let shown: Vec<&Standing> =
            standings.iter().filter(|s| !matches!(s.role, Role::Signals { .. })).collect();
        let regimes: Vec<&str> = self.regimes.iter().map(|regime| regime.0.as_str()).collect();
        let names = |all: &'_ [String]| all.iter().map(|name| escape(name)).collect::<Vec<_>>();
        let regimes: Vec<String> = regimes.into_iter().map(escape).collect();
        let mut out = key();
        out += "<h3>By regime</h3>\n";
        out += &table(&regimes, &shown, |s| &s.regimes);
        out += "<h3>By pool</h3>\n";
        out += &table(&names(&self.pools), &shown, |s| &s.pools);
        out += "<h3>By variant</h3>\n";
        out += &table(&names(&self.variants), &shown, |s| &s.variants);
        out
    }
}

fn key() -> String {
    let name = |step: usize| match step {
        0 => format!("up to {} %", STEPS[0]),
        7 => format!("more than {} %", STEPS[6]),
        _ => format!("{} to {} %", STEPS[step - 1], STEPS[step]),
    };
    let items: String =
        (0..=STEPS.len()).map(|step| format!("<span class=\"h{step}\">{}</span>", name(step))).collect();
    format!("<div class=\"key\">{items}</div>\n")
}

fn table(head: &[String], shown: &[&Standing], values: impl Fn(&Standing) -> &Vec<f64>) -> String {
    let cell = |value: f64| {
        if value.is_finite() {
            format!("<td class=\"h{}\">{}</td>", shade(value), signs(&bare(value)))
        } else {
            "<td>\u{2013}</td>".to_owned()
        }
    };
    let mut out = String::from(
        "<div class=\"scroll\"><table class=\"heat\">\n<thead><tr><th class=\"word\">policy</th>",
    );
    // The mean over all of them, then each.
    out += "<th>all</th>";
    out += &head.iter().map(|name| format!("<th>{name}</th>")).collect::<String>();
    out += "</tr></thead>\n<tbody>\n";
    for s in shown {
        let class = if s.role == Role::Policy { "" } else { " class=\"aside\"" };
        let cells: String = std::iter::once(s.mean).chain(values(s).iter().copied()).map(cell).collect();
        out += &format!("<tr{class}><td class=\"word\">{}</td>{cells}</tr>\n", escape(&s.name));
    }
    out + "</tbody>\n</table></div>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_end_where_they_say() {
        let shades = [-0.3, 0.0, 0.01, 0.0106, 0.02, 0.06, 0.5, 0.51, 1.0, 9.0].map(shade);
        assert_eq!(shades, [0, 0, 0, 1, 1, 3, 5, 6, 6, 7]);
    }

    /// WCAG's contrast of a text on its shade, in both modes: 4.5 is what small text needs.
    #[test]
    fn text_is_readable_on_every_shade() {
        let css = include_str!("league.css");
        let modes: Vec<&str> = css.split("prefers-color-scheme").collect();
        let channel = |hex: &str| {
            let c = f64::from(u8::from_str_radix(hex, 16).unwrap()) / 255.0;
            if c <= 0.03928 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        };
        let luminance = |hex: &str| {
            0.2126 * channel(&hex[0..2]) + 0.7152 * channel(&hex[2..4]) + 0.0722 * channel(&hex[4..6])
        };
        for mode in modes {
            let color = |name: &str| {
                let at = mode.find(&format!("--{name}:#")).unwrap() + name.len() + 4;
                luminance(&mode[at..at + 6])
            };
            for step in 0..=STEPS.len() {
                let text = match step {
                    0..5 => color("on-pale"),
                    5 => luminance("14181d"),
                    _ => color("on-deep"),
                };
                let ground = color(&format!("h{step}"));
                let contrast = (text.max(ground) + 0.05) / (text.min(ground) + 0.05);
                assert!(contrast >= 4.5, "h{step}: {contrast}");
            }
        }
    }
}
