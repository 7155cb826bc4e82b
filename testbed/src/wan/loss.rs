use super::random::Random;

/// Decides which packets are lost.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    random: Random,
    model: Model,
}

#[derive(Clone, Debug)]
enum Model {
    /// The probability for each packet, in percent.
    Independent(f64),
    /// Gilbert's model: packets are lost in the bad state. `start` and `end` are the probabilities,
    /// in percent, of entering and leaving it before each packet.
    Bursts { start: f64, end: f64, bad: bool },
}

impl Loss {
    /// `burst` is the mean number of packets lost in a row. `percent` is at most
    /// 100 × `burst` / (`burst` + 1).
    pub(super) fn new(random: Random, percent: f64, burst: Option<f64>) -> Self {
        let model = match burst {
            None => Model::Independent(percent),
            Some(burst) => {
                // In the long run bad/good = start/end, and a stay in the bad state is 1/end long.
                let end = 100.0 / burst;
                let start = if percent < 100.0 { end * percent / (100.0 - percent) } else { 100.0 };
                Model::Bursts { start, end, bad: false }
            }
        };
        Self { random, model }
    }

    pub(super) fn next_is_lost(&mut self) -> bool {
        match &mut self.model {
            Model::Independent(percent) => self.random.draw(*percent),
            Model::Bursts { start, end, bad } => {
                let change = if *bad { *end } else { *start };
                *bad ^= self.random.draw(change);
                *bad
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (percentage lost, mean number of packets lost in a row) of 200,000 packets.
    fn measure(percent: f64, burst: Option<f64>) -> (f64, f64) {
        let mut loss = Loss::new(Random::new(7, 1), percent, burst);
        let lost: Vec<_> = (0..200_000).map(|_| loss.next_is_lost()).collect();
        let count = lost.iter().filter(|lost| **lost).count();
        let rows = lost.chunk_by(|a, b| a == b).filter(|row| row[0]).count();
        (count as f64 / 2000.0, count as f64 / rows.max(1) as f64)
    }

    #[test]
    fn independent_loss_has_the_configured_rate() {
        for percent in [0.0, 0.1, 1.0, 20.0, 100.0] {
            let (lost, _) = measure(percent, None);
            // Four standard deviations.
            let most = 4.0 * (percent * (100.0 - percent) / 200_000.0).sqrt();
            assert!((lost - percent).abs() <= most, "{percent}% configured, {lost}% lost");
        }
    }

    #[test]
    fn bursts_have_the_configured_mean_length_and_rate() {
        for (percent, burst) in [(1.0, 5.0), (10.0, 3.0), (3.0, 20.0), (50.0, 1.0)] {
            let (lost, row) = measure(percent, Some(burst));
            assert!((lost / percent - 1.0).abs() < 0.15, "{percent}% configured, {lost}% lost");
            assert!((row / burst - 1.0).abs() < 0.15, "bursts of {burst} configured, {row} seen");
        }
    }
}
