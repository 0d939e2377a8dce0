"""The tier of an S3 store; ``docs/tiers.md`` says what it promises."""
