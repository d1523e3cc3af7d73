"""Processes whose predictive distribution is known: linear ones by the Kalman filter, a switching one by its two-state filter."""

from dataclasses import dataclass

import numpy as np

TINY = 1e-12  # a variance of "nothing", which keeps matrices invertible


@dataclass
class Linear:
    """z_t = A z_t-1 + N(0, Q), x_t = H z_t + N(0, R), z_1 ~ N(0, P)."""

    A: np.ndarray  # (D, D)
    Q: np.ndarray  # (D, D)
    R: np.ndarray  # (C, C)
    H: np.ndarray  # (C, D)
    P: np.ndarray  # (D, D)

    def sample(self, units, steps, seed):
        """Series (units, steps, C)."""
        rng = np.random.default_rng(seed)
        zero = np.zeros(len(self.A))
        z = rng.multivariate_normal(zero, self.P, units)
        out = []
        for _ in range(steps):
            noise = rng.multivariate_normal(np.zeros(len(self.R)), self.R, units)
            out.append(z @ self.H.T + noise)
            z = z @ self.A.T + rng.multivariate_normal(zero, self.Q, units)
        return np.stack(out, 1).astype(np.float32)

    def filtered(self, x):
        """Mean (units, D) and covariance of z one step ahead of x (units, steps, C), after each step; NaN = not observed.

        Yields the prediction before every step too: the first is the prior.
        """
        mean, cov = np.zeros((len(x), len(self.A))), self.P.copy()
        yield mean, cov
        for t in range(x.shape[1]):
            if not np.isnan(x[:, t]).any():
                innovation = self.H @ cov @ self.H.T + self.R
                gain = np.linalg.solve(innovation, self.H @ cov).T
                mean = mean + (x[:, t] - mean @ self.H.T) @ gain.T
                cov = cov - gain @ innovation @ gain.T
                cov = (cov + cov.T) / 2
            mean, cov = mean @ self.A.T, self.A @ cov @ self.A.T + self.Q
            yield mean, cov

    def one_step(self, x):
        """Exact means of p(x_t | x_<t), (units, steps, C); steps that are NaN in every unit are holes."""
        return np.stack([m @ self.H.T for m, _ in self.filtered(x)][:-1], 1)

    def forecast(self, x, horizon, n_samples=2000, seed=0):
        """Draws of the exact predictive marginals, (n_samples, units, horizon, C)."""
        *_, (mean, cov) = self.filtered(np.asarray(x, float))
        means, sds = [], []
        for _ in range(horizon):
            means.append(mean @ self.H.T)
            sds.append(np.sqrt(np.diag(self.H @ cov @ self.H.T + self.R)))
            mean, cov = mean @ self.A.T, self.A @ cov @ self.A.T + self.Q
        mean, sd = np.stack(means, 1), np.stack(sds)
        noise = np.random.default_rng(seed).standard_normal((n_samples, *mean.shape))
        return (mean + sd * noise).astype(np.float32)


@dataclass
class Switch:
    """x_t = .9 x_t-1 + .3 s_t + .1 e_t, where s_t = +-1 flips with probability .1: two futures."""

    flip: float = 0.1
    decay: float = 0.9
    push: float = 0.3
    noise: float = 0.1

    def sample(self, units, steps, seed):
        """Series (units, steps, 1)."""
        rng = np.random.default_rng(seed)
        s = rng.choice([-1, 1], units)
        x, out = 2.0 * s, []
        for _ in range(steps):
            x, s = self.move(x, s, rng)
            out.append(x)
        return np.stack(out, 1)[..., None].astype(np.float32)

    def move(self, x, s, rng):
        """One step on."""
        s = np.where(rng.random(s.shape) < self.flip, -s, s)
        noise = self.noise * rng.standard_normal(s.shape)
        return self.decay * x + self.push * s + noise, s

    def forecast(self, x, horizon, n_samples=2000, seed=0):
        """Draws of the exact predictive distribution, (n_samples, units, horizon, 1)."""
        rng, x = np.random.default_rng(seed), np.asarray(x, float)[..., 0]
        up = np.full(len(x), 0.5)  # probability of s = +1
        for t in range(1, x.shape[1]):
            up = up * (1 - self.flip) + (1 - up) * self.flip
            error = (x[:, t] - self.decay * x[:, t - 1]) / self.noise
            odds = np.exp(np.clip(2 * error * self.push / self.noise, -500, 500))
            up = up * odds / (up * odds + 1 - up)
        s = np.where(rng.random((n_samples, len(x))) < up, 1, -1)
        now, out = np.broadcast_to(x[:, -1], s.shape), []
        for _ in range(horizon):
            now, s = self.move(now, s, rng)
            out.append(now)
        return np.stack(out, 2)[..., None].astype(np.float32)


def stationary(A, Q):
    """Covariance that the transition leaves as it is."""
    P = np.eye(len(A))
    for _ in range(2000):
        P = A @ P @ A.T + Q
    return P


ONE = np.eye(1)
FIRST = np.array([[1.0, 0.0]])  # of two states the first is seen
TURN = 2 * np.pi / 12  # twelve steps a period
ROTATE = np.array([[np.cos(TURN), np.sin(TURN)], [-np.sin(TURN), np.cos(TURN)]])
LAGS = np.array([[1.6, -0.8], [1.0, 0.0]])
PUSHED, NOISY = 0.02 * np.eye(2), 0.09 * ONE

PROCESSES = {
    "random walk": Linear(ONE, ONE, TINY * ONE, ONE, ONE),
    "AR(1)": Linear(0.9 * ONE, ONE, TINY * ONE, ONE, ONE / (1 - 0.81)),
    "AR(2)": Linear(
        LAGS, np.diag([1.0, 0.0]), TINY * ONE, FIRST, stationary(LAGS, np.diag([1.0, 0.0]))
    ),
    "oscillator, noise of measurement": Linear(
        ROTATE, 0 * PUSHED, NOISY, FIRST, np.eye(2)
    ),
    "oscillator, noise of process": Linear(ROTATE, PUSHED, TINY * ONE, FIRST, np.eye(2)),
    "oscillator, both": Linear(ROTATE, PUSHED, NOISY, FIRST, np.eye(2)),
    "switch, two futures": Switch(),
}
