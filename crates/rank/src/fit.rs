//! α by least squares: how far to go from the collaborative score to the content score.

/// Sums over the customers of one segment; d = content − collaborative, r the target, both over categories.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Sums {
    pub customers: usize,
    /// Σ r²: the squared error of predicting zero.
    pub target: f64,
    /// Σ (r − collaborative)²
    residual: f64,
    /// Σ d · (r − collaborative)
    cross: f64,
    /// Σ d²
    difference: f64,
}

impl Sums {
    pub fn add(&mut self, target: &[f64], collaborative: &[f64], content: &[f64]) {
        self.customers += 1;
        for ((r, collaborative), content) in target.iter().zip(collaborative).zip(content) {
            let (residual, d) = (r - collaborative, content - collaborative);
            self.target += r * r;
            self.residual += residual * residual;
            self.cross += d * residual;
            self.difference += d * d;
        }
    }

    fn plus(&self, other: &Sums) -> Sums {
        Sums {
            customers: self.customers + other.customers,
            target: self.target + other.target,
            residual: self.residual + other.residual,
            cross: self.cross + other.cross,
            difference: self.difference + other.difference,
        }
    }

    /// Squared error at α: Σ (r − collaborative − α·d)², expanded. Rounding must not make it negative.
    fn error(&self, alpha: f64) -> f64 {
        (self.residual - 2.0 * alpha * self.cross + alpha * alpha * self.difference).max(0.0)
    }
}

/// The least-squares α of every segment, shrunken towards the pooled one:
///
/// ```text
/// α_g = clip( (Σ d·(r − collaborative) + κ·α₀) / (Σ d² + κ), 0, 1 )
/// ```
#[derive(Debug)]
pub(super) struct Fit {
    /// Everybody, then each segment.
    pub sums: Vec<Sums>,
    /// α₀, then each segment's.
    pub alphas: Vec<f64>,
    pub kappa: f64,
}

impl Fit {
    /// `sums` has an unused row 0, for everybody; κ is `strength` times the pooled mean of a customer's Σ d².
    pub fn new(mut sums: Vec<Sums>, strength: f64) -> Fit {
        let pooled = sums.iter().skip(1).fold(Sums::default(), |a, b| a.plus(b));
        sums[0] = pooled;
        let kappa = strength * pooled.difference / pooled.customers.max(1) as f64;
        // Where both scores are always the same, α changes nothing.
        let alpha =
            |above: f64, below: f64, other: f64| if below > 0.0 { (above / below).clamp(0.0, 1.0) } else { other };
        let pooled_alpha = alpha(pooled.cross, pooled.difference, 0.5);
        let own = |s: &Sums| alpha(s.cross + kappa * pooled_alpha, s.difference + kappa, pooled_alpha);
        let alphas = std::iter::once(pooled_alpha).chain(sums[1..].iter().map(own)).collect();
        Fit { sums, alphas, kappa }
    }

    /// RMSE over customers and `n` categories, with the α that `alpha` gives for a row; None without customers.
    pub fn rmse(&self, n: usize, alpha: impl Fn(usize) -> f64) -> Option<f64> {
        self.root(n, self.sums.iter().enumerate().skip(1).map(|(row, s)| s.error(alpha(row))).sum())
    }

    /// The root of a mean over customers and `n` categories.
    pub fn root(&self, n: usize, sum: f64) -> Option<f64> {
        let cells = self.sums[0].customers * n;
        (cells > 0).then(|| (sum / cells as f64).sqrt())
    }
}

/// Σ (a − b)²
pub(super) fn squares(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}
