"""The tiers: where entries live."""
