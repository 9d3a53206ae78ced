//! The league as text, JSON and a page.

use serde_json::json;

use super::LeagueReport;

impl LeagueReport {
    /// Tables for a terminal.
    pub fn text(&self) -> String {
        let percent = |x: f64| format!("{:+.1}", 100.0 * x);
        let mut text = String::new();
        let standings = self.standings();
        let width = standings.iter().map(|s| s.name.len()).max().unwrap_or(0);
        text += &format!("{:width$}  mean  worst", "regret %");
        for (name, _) in &self.regimes {
            text += &format!("  {:>8.8}", name);
        }
        text.push('\n');
        for s in &standings {
            text += &format!("{:width$}  {:>5} {:>6}", s.name, percent(s.mean), percent(s.worst));
            for regime in &s.regimes {
                text += &format!("  {:>8}", percent(*regime));
            }
            text.push('\n');
        }
        for name in standings.iter().filter(|s| !s.reference).take(3).map(|s| &s.name) {
            text += &format!("\n{name} against the best of each regime:\n");
            for against in self.against_best(name) {
                let regime = &self.regimes[against.regime].0;
                text += &format!(
                    "  {regime:16} {:>6} (limit {:>6})  {}\n",
                    percent(against.more),
                    percent(against.limit),
                    against.best
                );
            }
        }
        text
    }

    /// Everything, for machines.
    pub fn to_json(&self) -> String {
        let value = json!({ "standings": self.standings(), "league": self });
        serde_json::to_string(&value).unwrap_or_default() + "\n"
    }

    /// One page.
    ///
    /// # Errors
    /// What drawing answers.
    pub fn html(&self) -> Result<String, crate::ReportError> {
        Ok(format!("<pre>{}</pre>", self.text()))
    }
}
