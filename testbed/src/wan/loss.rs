use super::random::Random;

/// Which packets are lost.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    random: Random,
    model: Model,
}

#[derive(Clone, Debug)]
enum Model {
    /// Each with this percentage.
    Independent(f64),
    /// Gilbert's two states, changed before each packet; the chances in percent.
    Bursts { begin: f64, end: f64, bad: bool },
}

impl Loss {
    /// `percent` is at most what bursts of `burst` packets, on average, can make up.
    pub(super) fn new(random: Random, percent: f64, burst: Option<f64>) -> Self {
        let model = match burst {
            None => Model::Independent(percent),
            Some(burst) => {
                // In the long run bad/good = begin/end, and a stay in the bad state is 1/end long.
                let end = 100.0 / burst;
                let begin = if percent < 100.0 { end * percent / (100.0 - percent) } else { 100.0 };
                Model::Bursts { begin, end, bad: false }
            }
        };
        Self { random, model }
    }

    /// Whether the next packet is.
    pub(super) fn strikes(&mut self) -> bool {
        match &mut self.model {
            Model::Independent(percent) => self.random.strikes(*percent),
            Model::Bursts { begin, end, bad } => {
                let change = if *bad { *end } else { *begin };
                *bad ^= self.random.strikes(change);
                *bad
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (Percentage lost, mean length of a row of losses) of 200,000 packets.
    fn measure(percent: f64, burst: Option<f64>) -> (f64, f64) {
        let mut loss = Loss::new(Random::new(7, 1), percent, burst);
        let lost: Vec<_> = (0..200_000).map(|_| loss.strikes()).collect();
        let count = lost.iter().filter(|lost| **lost).count();
        let rows = lost.chunk_by(|a, b| a == b).filter(|row| row[0]).count();
        (count as f64 / 2000.0, count as f64 / rows.max(1) as f64)
    }

    #[test]
    fn independent_loss_has_the_rate_asked_for() {
        for percent in [0.0, 0.1, 1.0, 20.0, 100.0] {
            let (lost, _) = measure(percent, None);
            // Four standard deviations.
            let most = 4.0 * (percent * (100.0 - percent) / 200_000.0).sqrt();
            assert!((lost - percent).abs() <= most, "{percent} % asked, {lost} %");
        }
    }

    #[test]
    fn bursts_have_the_mean_length_and_the_rate_asked_for() {
        for (percent, burst) in [(1.0, 5.0), (10.0, 3.0), (3.0, 20.0), (50.0, 1.0)] {
            let (lost, row) = measure(percent, Some(burst));
            assert!((lost / percent - 1.0).abs() < 0.15, "{percent} % asked, {lost} %");
            assert!((row / burst - 1.0).abs() < 0.15, "rows of {burst} asked, {row}");
        }
    }
}
