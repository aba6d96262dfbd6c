"""Sweeps: many runs out of one configuration, each with ledgers of its own, resumed wherever they were stopped."""
