"""What a user hands in, checked before the core is called."""
