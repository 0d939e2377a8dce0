"""Tiers: the contract in ``base``, one module for each kind."""
