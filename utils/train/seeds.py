"""Randomness as a function of (seed, step): it depends neither on workers nor on how often a run was stopped."""

import torch


def generator(seed: int, step: int, device: torch.device | str, stream: int = 2) -> torch.Generator:
    """A random generator on `device` whose draws are a function of (seed, step), and others in another stream."""
    return torch.Generator(device).manual_seed(_mix(seed, step, stream))


def seed_step(seed: int, step: int, device: torch.device | str, rank: int = 0) -> torch.Generator:
    """Make everything random in one training step a function of (seed, step, rank of the process): dropout follows the
    global generator, augmentation the one returned."""
    _seed_globally(_mix(seed, step, stream=3 + 3 * rank), device)
    return generator(seed, step, device, stream=2 + 3 * rank)


def reseed(device: torch.device | str) -> None:
    """Restart torch's global generator at the seed of this step: what was drawn since then does not count."""
    _seed_globally(torch.initial_seed(), device)


def _seed_globally(number: int, device: torch.device | str) -> None:
    torch.default_generator.manual_seed(number)  # torch.manual_seed looks for every kind of device: 0.4 ms
    if torch.device(device).type == "cuda":
        torch.cuda.manual_seed(number)


def _mix(seed: int, step: int, stream: int) -> int:
    # splitmix64's finaliser: neighbouring seeds, steps and streams must not give related numbers.
    z = (seed * 0x9E3779B97F4A7C15 + step * 0xD1B54A32D192ED03 + stream * 0x632BE59BD9B4E019) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)
