"""Measurements behind the README's figures: paths against their physical limits."""
