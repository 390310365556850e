"""We and other gateways on the same work, in one run: what each does in a second, and what it takes for it."""
